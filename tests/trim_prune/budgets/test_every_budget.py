"""What every row budget and every layer budget owes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from trim_kernels import testing
from trim_prune import Recipe, TrimPruneError, count_linear, divide_linears
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.budgets.rows import ROW_BUDGETS

WHOLE_MODEL = ("msp", "optimal")
"""Layer budgets that run the model: they have tests of their own."""


@pytest.mark.parametrize("rows", ROW_BUDGETS.names())
def test_a_row_budget_passes_the_check_for_plug_ins(rows):
    recipe = Recipe(sparsity=0.5, rows=rows)
    testing.check_row_budget(partial(count_linear, recipe), partial(ROW_BUDGETS.get(rows).row_limit, recipe=recipe))


def test_a_row_budget_hears_how_outputs_count():
    weight, inputs, _ = testing.heavy_tailed(6, 40, 16)
    gradient = torch.tensor([0.0, 1, 1, 1, 1, 1])
    recipe = Recipe(sparsity=0.5, rows="optimal", optimal={"spread": 0.4})
    counts = count_linear(recipe, weight, inputs.t()[None], 120, output_gradient=gradient).prune_count
    assert int(counts[0]) == 36 == int(counts.max())


@pytest.mark.parametrize("layers", [name for name in LAYER_BUDGETS.names() if name not in WHOLE_MODEL])
def test_a_layer_budget_passes_the_check_for_plug_ins(layers):
    def divide(weights, inputs, sparsity):
        # Rules have to leave the linears without one a sparsity that they can have.
        table = {"table": [{"match": "blocks.0.*", "sparsity": sparsity}]} if layers == "table" else {}
        recipe = Recipe(sparsity=0.5, layers=layers, rows="uniform", **table)
        return divide_linears(recipe, weights, inputs, sparsity)

    testing.check_layer_budget(divide)


@pytest.mark.parametrize("layers", WHOLE_MODEL)
def test_a_layer_budget_that_runs_the_model_wants_one(layers):
    with pytest.raises(TrimPruneError, match=f"'{layers}' runs the model as a whole"):
        testing.check_layer_budget(partial(divide_linears, Recipe(sparsity=0.5, layers=layers, rows="uniform")))
