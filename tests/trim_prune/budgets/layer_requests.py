"""Requests to layer budgets: linears of random weights, and statistics with chosen energies."""

from __future__ import annotations

import torch
from torch import nn

from trim_prune import LayerRequest, Recipe
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.models.discover import Linear


def make_linear(block, name, weight):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    module.weight.data = weight
    return Linear(f"model.layers.{block}.{name}", block, module)


def random_linears(*blocks, seed=0, dtype=torch.float32):
    """One linear per shape; ``blocks`` are lists of shapes, and need not be alike."""
    generator = torch.Generator().manual_seed(seed)
    return [
        make_linear(block, f"linear{number}", torch.randn(shape, generator=generator).to(dtype))
        for block, shapes in enumerate(blocks)
        for number, shape in enumerate(shapes)
    ]


def random_statistics(linears, seed=0):
    """Two sequences' worth of inputs with unlike columns for each linear."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for linear in linears:
        columns = linear.module.in_features
        inputs = torch.randn(2, 8, columns, generator=generator) * torch.rand(columns, generator=generator).exp()
        found[linear] = LinearStatistics()
        found[linear].add(inputs, frozenset({"column_energy"}), [7])
    return found


def make_request(linears, statistics=None, *, sparsity=0.7, limits=None, **recipe):
    sizes = [linear.size for linear in linears]
    recipe = Recipe(**{"sparsity": sparsity, "rows": "uniform", **recipe})
    return LayerRequest(linears, sparsity, round(sparsity * sum(sizes)), limits or sizes, statistics or {}, recipe)


def joined_scores(request, block):
    """Wanda's scores of a block, as one vector."""
    return torch.cat(
        [
            (linear.module.weight.float().abs() * scale(request.statistics[linear])).detach().flatten()
            for linear in request.linears
            if linear.block == block
        ]
    )


def scale(statistics):
    return (statistics.column_energy / statistics.sequences).sqrt().float()
