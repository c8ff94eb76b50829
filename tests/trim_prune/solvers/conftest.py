from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trim_kernels import unpack_bits
from trim_prune import Importance, Recipe
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.solvers import SOLVERS, SolveRequest


@dataclass
class Solved:
    before: Tensor
    weight: Tensor
    kept: Tensor
    gram: Tensor
    steps: list[str]

    @property
    def errors(self):
        """Output error of each row on the calibration inputs, float64."""
        return errors(self.before, self.weight, self.gram)


def errors(before, after, gram):
    difference = before.double() - after.double()
    return ((difference @ gram.double()) * difference).sum(dim=1)


@pytest.fixture
def solve():
    """Run one solver on one linear with Wanda's score."""

    def run(name, weight, inputs, count, *, compete=False, gram=None, damping=None, pattern=None, **options):
        statistics = LinearStatistics()
        statistics.add(inputs[None], frozenset({"column_energy", "gram"}), [])
        if gram is not None:
            statistics.gram.copy_(gram)
        counts = torch.as_tensor(count, dtype=torch.int32).expand(weight.shape[0]).contiguous()
        importance = Importance(column_scale=statistics.column_energy.sqrt().float())
        values = {"sparsity": 0.5, "solver": name, "damping": None if name == "mask" else damping}
        recipe = Recipe.build(values | ({name: options} if options else {}))
        after = weight.clone(memory_format=torch.preserve_format)
        request = SolveRequest(after, counts, compete, importance, statistics, recipe, pattern)
        kept = unpack_bits(SOLVERS.get(name).function(request), weight.shape[1])
        pruned = (~kept).sum(dim=1, dtype=torch.int32)
        assert int(pruned.sum()) == int(counts.sum())
        assert compete or torch.equal(pruned, counts)
        assert torch.equal(after.masked_fill(kept, 0), torch.zeros_like(after))
        assert after.isfinite().all()
        return Solved(weight, after, kept, statistics.gram, request.steps)

    return run


@pytest.fixture
def coupled():
    """Weight [R, 6], inputs, and what is no Gram matrix: with 1 % damping it is factored at a hundred times that."""
    generator = torch.Generator().manual_seed(0)
    gram = torch.eye(6)
    gram[0, 1] = gram[1, 0] = 1.3
    return torch.randn(12, 6, generator=generator), torch.ones(8, 6), gram


@pytest.fixture
def linear():
    """Weight [R, C] and inputs [tokens, C] that are correlated, of very different size, and share a direction."""

    def make(rows, columns, tokens, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        components = normal(tokens, columns) * torch.linspace(1, 0.1, columns)
        inputs = components @ normal(columns, columns) / columns**0.5 + 0.3 * normal(columns)
        return 0.02 * normal(rows, columns) * normal(rows, 1).exp(), inputs * normal(columns).exp()

    return make
