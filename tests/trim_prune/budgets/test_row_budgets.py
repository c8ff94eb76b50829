from __future__ import annotations

import pytest
import torch

import trim_kernels
from trim_prune import Importance, Recipe, RowRequest
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.calibration.statistics import LinearStatistics


@pytest.fixture
def request_for():
    """A row request for a random linear [7, 20] with 5 search inputs."""

    def make(count, **options):
        generator = torch.Generator().manual_seed(0)
        statistics = LinearStatistics()
        inputs = torch.randn(5, 4, 20, generator=generator)
        statistics.add(inputs, frozenset({"search_inputs", "column_energy"}), [3])
        weight = torch.randn(7, 20, generator=generator)
        importance = Importance(column_scale=statistics.column_energy.sqrt().float())
        return RowRequest(weight, importance, statistics, count, Recipe(sparsity=count / 140, trim=options))

    return make


@pytest.mark.parametrize("count", [0, 1, 69, 70, 140])
def test_uniform_rows_differ_by_at_most_one_and_sum_to_the_total(request_for, count):
    counts = ROW_BUDGETS.get("uniform").function(request_for(count)).prune_count
    assert int(counts.sum()) == count
    assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("count", [0, 1, 69, 70, 131])
def test_trim_rows_sum_to_the_total_and_are_no_worse_than_uniform(request_for, count):
    decision = ROW_BUDGETS.get("trim").function(request_for(count))
    assert int(decision.prune_count.sum()) == count
    assert int(decision.prune_count.max()) <= 19
    assert decision.quality >= decision.baseline_quality


def test_trim_passes_every_option_on(request_for):
    options = {
        "layer_metric": "mse",
        "row_metric": "psnr",
        "learning_rates": (0.03, 0.07),
        "negative_learning_rates": (),
        "iterations": 3,
        "max_sparsity": 0.8,
        "rounding": "floor",
    }
    request = request_for(70, **options)
    decision = ROW_BUDGETS.get("trim").function(request)
    direct = trim_kernels.allocate_rows(
        request.weight,
        request.statistics.search_inputs,
        0.5,
        column_scale=request.importance.column_scale,
        **options,
    )
    assert torch.equal(decision.prune_count, direct.prune_count)
    assert (decision.quality, decision.learning_rate) == (direct.quality, direct.learning_rate)
    assert decision.rounded


@pytest.mark.parametrize(
    ("max_sparsity", "columns", "limit"), [(0.95, 20, 19), (0.95, 10, 9), (0.29, 100, 29), (1.0, 7, 7)]
)
def test_the_row_limit_of_trim_is_the_cap_that_the_search_keeps(max_sparsity, columns, limit):
    recipe = Recipe(sparsity=0.1, trim={"max_sparsity": max_sparsity})
    assert ROW_BUDGETS.get("trim").row_limit(columns, recipe) == limit
    weight, inputs = torch.randn(3, columns), torch.randn(columns, 2)
    budget = trim_kernels.allocate_rows(weight, inputs, limit / columns, max_sparsity=max_sparsity)
    assert budget.prune_count.tolist() == [limit] * 3
    with pytest.raises(ValueError, match="sparsity"):
        trim_kernels.allocate_rows(weight, inputs, min(1.01, (limit + 1) / columns), max_sparsity=max_sparsity)
