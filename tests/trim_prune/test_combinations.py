"""Any score, any layers, any rows, any solver: a fixed choice of combinations in which every pair of methods meets."""

from __future__ import annotations

import copy
import random
from itertools import combinations, product

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

from trim_kernels import unpack_bits
from trim_prune import Recipe, prune
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.recipe import GROUPS
from trim_prune.scores import SCORES
from trim_prune.solvers import SOLVERS

SPARSITY = 0.57
# What a method is given, that it may be quick or has to be told; of sparsegpt each way to choose weights.
OPTIONS = {
    "trim": [{"iterations": 2}],
    "table": [({"match": "*.down_proj", "sparsity": 0.4}, {"match": "*.q_proj", "sparsity": 0.7})],
    "sparsegpt": [{"mask": "fixed"}, {"mask": "inside", "refine": 2}, {"mask": "blocks"}],
    "msp": [{"stages": [16], "population": 4, "offspring": 2, "generations": 1, "step": 0.1}],
    "swaps": [{"rounds": 3}],
    "alps": [{"iterations": 10}, {"support": "score"}],
}
WALKS = [{}, {"recapture": True}, {"correction": 0.5}, {"correction": 0.5, "recapture": True}]
REGISTRIES = {"score": SCORES, "layers": LAYER_BUDGETS, "rows": ROW_BUDGETS, "solver": SOLVERS}
# As they are now: other tests may register more in this process.
NAMES = {field: registry.names() for field, registry in REGISTRIES.items()}
CHOICES = [
    [{field: name, **options} for name in names for options in given(name)]
    for field, names in NAMES.items()
    for given in [lambda name: [{name: options} for options in OPTIONS.get(name, [])] or [{}]]
]


def covering():
    """In a fixed random order, the combinations in which two choices meet that have not met before."""
    order = list(product(*CHOICES, WALKS))
    random.Random(0).shuffle(order)
    met = set()
    for combination in order:
        pairs = {str(pair) for pair in combinations(enumerate(combination), 2)}
        if not pairs <= met:
            met |= pairs
            yield {key: value for choice in combination for key, value in choice.items()}


COMBINATIONS = list(covering())


def show(combination):
    methods = [combination[field] for field in REGISTRIES]
    options = [combination.get("sparsegpt", combination.get("alps", {}))]
    return "-".join(methods + [f"{key}={value}" for group in options for key, value in group.items()])


@pytest.fixture(scope="module")
def dense():
    return make_model("llama")


def test_every_pair_of_methods_meets():
    for first, second in combinations(NAMES, 2):
        met = {(combination[first], combination[second]) for combination in COMBINATIONS}
        assert met == set(product(NAMES[first], NAMES[second]))
    assert OPTIONS.keys() <= GROUPS.keys()


@pytest.mark.parametrize("combination", COMBINATIONS, ids=show)
def test_it_prunes_to_the_weight(combination, dense, tokenizer, text):
    model = copy.deepcopy(dense)
    recipe = {"sparsity": SPARSITY, "samples": 4, "seqlen": 16, "device": "cpu", **combination}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    weights = {f"{name}.weight": linear.weight for name, linear in linears_of(model, "llama").items()}
    assert result.sparsity.pruned == round(SPARSITY * sum(weight.numel() for weight in weights.values()))
    assert sum(map(zeros, weights.values())) == result.sparsity.pruned
    for linear in result.linears:
        weight = weights[f"{linear.name}.weight"]
        kept = unpack_bits(result.masks[f"{linear.name}.weight"], weight.shape[1])
        counts = (~kept).sum(1)
        assert torch.equal(kept, weight != 0)
        assert weight.isfinite().all()
        assert (int(counts.min()), int(counts.max())) == (linear.row_min, linear.row_max)
        assert int(counts.sum()) == linear.prune_count
    assert Recipe.build(result.recipe.model_dump(mode="json")) == result.recipe
