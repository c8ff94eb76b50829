"""The fields of a RowBudget agree with one another and with independent measurements."""

from __future__ import annotations

import itertools

import pytest
import torch

from trim_kernels import allocate_rows, row_quality, testing

POSITIVE = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16)
NEGATIVE = (-0.01, -0.02, -0.04)
CASES = {
    "positive rate wins": {"sparsity": 0.6},
    "large rate wins": {"sparsity": 0.6, "layer_metric": "mse", "row_metric": "mse"},
    "negative rate wins": {"sparsity": 0.3, "layer_metric": "psnr_rows", "row_metric": "psnr"},
    "nothing wins": {"sparsity": 0.0},
    "no steps": {"sparsity": 0.6, "iterations": 0},
    "no rates": {"sparsity": 0.6, "learning_rates": (), "negative_learning_rates": ()},
    "no negative rates": {
        "sparsity": 0.3,
        "layer_metric": "psnr_rows",
        "row_metric": "psnr",
        "negative_learning_rates": (),
    },
}


@pytest.fixture(params=CASES)
def request_options(request):
    return CASES[request.param]


@pytest.fixture(params=["exact", "floor"])
def budget(request, request_options, backend):
    weight, inputs, column_scale = testing.heavy_tailed(64, 96, 32)
    return allocate_rows(
        weight, inputs, column_scale=column_scale, rounding=request.param, **request_options, backend=backend
    )


def test_the_winner_is_the_one_of_the_case(budget, request):
    case = request.node.callspec.params["request_options"]
    assert {
        "positive rate wins": budget.learning_rate in POSITIVE,
        "large rate wins": budget.learning_rate in POSITIVE[2:],
        "negative rate wins": budget.learning_rate in NEGATIVE,
    }.get(case, budget.learning_rate is None)


def test_every_trial_starts_from_equal_shares_and_takes_every_step(budget, request_options):
    steps = request_options.get("iterations", 10)
    assert [len(trial.quality) for trial in budget.trace] == [steps + 1] * len(budget.trace)
    assert all(trial.quality[0] == budget.baseline_quality for trial in budget.trace)


def test_the_budget_is_the_first_best_of_the_trace(budget):
    tried = [
        (quality, trial.learning_rate, step) for trial in budget.trace for step, quality in enumerate(trial.quality)
    ]
    best = max([budget.baseline_quality, *(quality for quality, _, _ in tried)])
    assert budget.quality == best
    if best == budget.baseline_quality:
        assert (budget.learning_rate, budget.iteration) == (None, 0)
    else:
        first = next(found for found in tried if found[0] == best)
        assert (budget.quality, budget.learning_rate, budget.iteration) == first


def test_rates_are_tried_in_order_until_one_is_no_better(budget, request_options):
    tried = [trial.learning_rate for trial in budget.trace]
    positive = [trial for trial in budget.trace if trial.learning_rate > 0]
    negative = [trial for trial in budget.trace if trial.learning_rate < 0]
    rates = {
        "learning_rates": request_options.get("learning_rates", POSITIVE),
        "negative_learning_rates": request_options.get("negative_learning_rates", NEGATIVE),
    }
    assert tried == [*rates["learning_rates"][: len(positive)], *rates["negative_learning_rates"][: len(negative)]]
    for trials, offered in ((positive, rates["learning_rates"]), (negative, rates["negative_learning_rates"])):
        best = [max(trial.quality) for trial in trials]
        assert all(later > earlier for earlier, later in itertools.pairwise(best[:-1]))
        if 1 < len(trials) < len(offered):
            assert best[-1] <= best[-2]
    positive_won = any(max(trial.quality) > budget.baseline_quality for trial in positive)
    if positive_won:
        assert negative == []
    elif rates["negative_learning_rates"]:
        assert negative != []


def test_sparsity_is_that_of_the_counts(budget):
    assert budget.prune_count.shape == (64,)
    assert budget.sparsity == budget.prune_count.sum().item() / (64 * 96)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.7, 0.9])
def test_quality_is_that_of_the_returned_counts(sparsity, backend):
    weight, inputs, column_scale = testing.heavy_tailed(64, 120, 48, seed=3)
    found = allocate_rows(weight, inputs, sparsity, column_scale=column_scale, backend=backend)
    measured = row_quality(weight, found.prune_count, inputs, column_scale=column_scale, backend="reference")
    assert found.quality == pytest.approx(measured.layer_cosine, rel=1e-6)


def test_a_flat_scale_changes_nothing(backend):
    weight, inputs, _ = testing.heavy_tailed(24, 60, 16)
    plain = allocate_rows(weight, inputs, 0.6, backend=backend)
    for scoring in ({"column_scale": torch.full((60,), 2.0)}, {"score": weight.abs()}):
        assert torch.equal(
            allocate_rows(weight, inputs, 0.6, **scoring, backend=backend).prune_count, plain.prune_count
        )
