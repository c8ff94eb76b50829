from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

import trim_kernels
from trim_prune import Importance, Recipe, RowRequest, TrimPruneError, prune
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.scores import SCORES


@pytest.fixture
def request_for():
    """A row request for a linear with correlated inputs [tokens, C] and rows of unlike size."""

    def make(rows, columns, count, *, tokens=200, spread=None, seed=0, scored=False, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        inputs = normal(tokens, columns) @ normal(columns, columns) + normal(columns)
        weight = (normal(rows, columns) * normal(rows, 1).exp()).to(dtype)
        statistics = LinearStatistics()
        statistics.add(inputs[None], frozenset({"gram", "column_energy"}), [])
        scale = statistics.column_energy.sqrt().float()
        importance = Importance(score=weight.float().abs() * scale) if scored else Importance(column_scale=scale)
        optimal = {} if spread is None else {"optimal": {"spread": spread}}
        recipe = Recipe.build({"sparsity": count / weight.numel(), "rows": "optimal", **optimal})
        return RowRequest(weight, importance, statistics, count, recipe), inputs

    return make


def optimal(request):
    return ROW_BUDGETS.get("optimal").function(request).prune_count


def error(request, inputs, counts):
    """Sum over rows of the squared output error on the inputs when each loses its lowest scores, float64."""
    score = request.weight.float().abs() * request.importance.column_scale
    ranks = score.argsort(dim=1, stable=True).argsort(dim=1)
    dropped = request.weight.double().masked_fill(ranks >= counts[:, None], 0)
    return float((dropped @ inputs.double().t()).square().sum())


def bounds(columns, share, spread):
    return max(0, math.floor(columns * (share - spread))), min(columns, math.ceil(columns * (share + spread)))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("spread", [0.02, 0.12, 1.0])
@pytest.mark.parametrize("tokens", [10, 500])
def test_the_error_is_no_greater_than_with_uniform_rows(request_for, share, spread, tokens):
    count = round(share * 24 * 50)
    request, inputs = request_for(24, 50, count, tokens=tokens, spread=spread)
    counts, even = optimal(request), trim_kernels.uniform_counts(24, 50, count)
    first, last = bounds(50, count / (24 * 50), spread)
    assert counts.dtype == torch.int32
    assert int(counts.sum()) == count
    assert first <= int(counts.min()) <= int(counts.max()) <= last
    assert error(request, inputs, counts) < error(request, inputs, even)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_counts_lose_noticeably_less(request_for, seed):
    rows, columns, count = 6, 9, 27
    request, inputs = request_for(rows, columns, count, spread=1.0, seed=seed)
    curves = [
        [error(request, inputs, torch.tensor([k if i == row else 0 for i in range(rows)])) for k in range(columns + 1)]
        for row in range(rows)
    ]
    best = [0.0] + count * [math.inf]
    for curve in curves:
        best = [min(best[n - k] + curve[k] for k in range(min(n, columns) + 1)) for n in range(count + 1)]
    # Curves that fall, or rise unevenly, may cost up to their distance from their convex hull.
    found = error(request, inputs, optimal(request))
    assert best[count] * (1 - 1e-6) <= found <= best[count] * 1.1


def test_a_wider_spread_loses_less(request_for):
    errors = []
    for spread in (0.01, 0.05, 0.2, 1.0):
        request, inputs = request_for(40, 64, 40 * 38, spread=spread)
        errors.append(error(request, inputs, optimal(request)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_errors_count_by_the_gradient_of_their_output(request_for):
    """As with weights that are larger by the root of the gradient, where the score ranks each row alike."""
    request, _ = request_for(20, 30, 300)
    gradient = torch.rand(20, generator=torch.Generator().manual_seed(1)) * 100
    weighted = replace(request, output_gradient=gradient)
    larger = replace(request, weight=request.weight * gradient.sqrt()[:, None])
    assert torch.equal(optimal(weighted), optimal(larger))
    assert not torch.equal(optimal(weighted), optimal(request))


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_gradients_that_are_all_alike_change_nothing(request_for, value):
    request, _ = request_for(20, 30, 300)
    assert torch.equal(optimal(replace(request, output_gradient=torch.full((20,), value))), optimal(request))


def test_an_output_that_the_loss_does_not_feel_goes_first(request_for):
    request, _ = request_for(10, 40, 200, spread=0.25)
    gradient = torch.ones(10)
    gradient[3], gradient[7] = 0, 1e6
    counts = optimal(replace(request, output_gradient=gradient))
    assert (int(counts[3]), int(counts[7])) == (30, 10)


def test_a_model_is_pruned_by_as_many_sequences_as_asked_for(tokenizer, text):
    def run(sequences):
        told = []
        recipe = {"sparsity": 0.6, "rows": "optimal", "samples": 4, "seqlen": 16, "optimal": {"sequences": sequences}}
        result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer, on_event=told.append)
        gradients = [event.data for event in told if event.kind == "gradients"]
        return result, [data["sequence"] for data in gradients], "gradients" in result.timings

    plain, told, timed = run(0)
    assert (told, timed) == ([], False)
    two, told, timed = run(2)
    assert (told, timed) == ([1, 2], True)
    every, told, _ = run(100)
    assert told == [1, 2, 3, 4]
    masks = [result.masks for result in (plain, two, every)]
    assert all(any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(masks))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 37), (9, 1), (5, 8), (3, 300)])
@pytest.mark.parametrize("spread", [1e-9, 0.12, 1.0])
def test_every_total_is_met_on_odd_shapes(request_for, rows, columns, spread):
    whole = rows * columns
    for count in {0, 1, whole // 3, whole // 2, whole - 1, whole}:
        counts = optimal(request_for(rows, columns, count, tokens=20, spread=spread)[0])
        first, last = bounds(columns, count / whole, spread)
        assert int(counts.sum()) == count
        assert first <= int(counts.min()) <= int(counts.max()) <= last


def test_a_row_that_makes_no_output_goes_first_and_a_loud_one_last(request_for):
    request, _ = request_for(10, 40, 200, spread=0.25)
    request.weight[3] *= 1e-6
    request.weight[7] *= 1e6
    counts = optimal(request)
    assert (int(counts[3]), int(counts[7])) == (30, 10)


def test_inputs_that_are_all_zero_still_meet_the_total(request_for):
    request, _ = request_for(6, 20, 71)
    request.statistics.gram.zero_()
    assert int(optimal(request).sum()) == 71


def test_scores_and_column_scales_of_the_same_values_give_the_same_counts(request_for):
    (scaled, _), (scored, _) = (request_for(20, 30, 300, scored=value) for value in (False, True))
    assert torch.equal(optimal(scaled), optimal(scored))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_count_as_the_same_values_in_float32(request_for, dtype):
    half, _ = request_for(20, 30, 300, dtype=dtype)
    single = RowRequest(half.weight.float(), half.importance, half.statistics, 300, half.recipe)
    assert torch.equal(optimal(half), optimal(single))


@pytest.mark.parametrize("score", SCORES.names())
@pytest.mark.parametrize("sparsity", [0.05, 0.6])
def test_a_model_is_pruned_to_the_weight_inside_the_spread(score, sparsity, tokenizer, text):
    model = make_model("llama")
    recipe = {"sparsity": sparsity, "score": score, "rows": "optimal", "optimal": {"spread": 0.2}}
    result = prune(model, recipe | {"samples": 4, "seqlen": 16}, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(sparsity * result.sparsity.prunable_weights)
    assert sum(zeros(linear.weight) for linear in linears_of(model, "llama").values()) == result.sparsity.pruned
    for linear in result.linears:
        first, last = bounds(linear.shape[1], linear.sparsity, 0.2)
        assert first <= linear.row_min <= linear.row_max <= last


def test_the_spread_is_read(tokenizer, text):
    ranges = []
    for spread in (0.05, 0.5):
        recipe = {"sparsity": 0.5, "rows": "optimal", "optimal": {"spread": spread}, "samples": 4, "seqlen": 16}
        result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
        ranges.append(max(linear.row_max - linear.row_min for linear in result.linears))
    assert ranges[0] <= 0.1 * 48 + 2 < ranges[1]


@pytest.mark.parametrize("spread", [0, -0.1, 1.5, True, "wide"])
def test_a_spread_that_means_nothing_is_refused(spread):
    with pytest.raises(TrimPruneError, match=r"optimal\.spread"):
        Recipe.build({"sparsity": 0.5, "rows": "optimal", "optimal": {"spread": spread}})


def test_the_spread_without_optimal_rows_is_refused():
    with pytest.raises(TrimPruneError, match=r"options of optimal are given(.|\n)*rows: uniform"):
        Recipe.build({"sparsity": 0.5, "rows": "uniform", "optimal": {"spread": 0.1}})


@pytest.mark.parametrize("tokens", [8, 32, 128, 512])
@pytest.mark.parametrize("correlated", [False, True])
def test_few_tokens_do_no_harm_on_inputs_that_were_not_seen(tokens, correlated):
    """Rows all alike: nothing to gain, and what the tokens seem to say of a row is noise."""
    generator = torch.Generator().manual_seed(tokens)
    columns, rows, count = 256, 64, round(0.7 * 64 * 256)
    mixing = torch.randn(columns, columns, generator=generator) / 16 if correlated else torch.eye(columns)
    seen, unseen = (torch.randn(n, columns, generator=generator) @ mixing for n in (tokens, 4096))
    weight = torch.randn(rows, columns, generator=generator)
    statistics = LinearStatistics()
    statistics.add(seen[None], frozenset({"gram", "column_energy"}), [])
    importance = Importance(column_scale=statistics.column_energy.sqrt().float())
    recipe = Recipe.build({"sparsity": 0.7, "rows": "optimal"})
    request = RowRequest(weight, importance, statistics, count, recipe)
    even = trim_kernels.uniform_counts(rows, columns, count)
    assert error(request, unseen, optimal(request)) < 1.03 * error(request, unseen, even)


def test_a_pattern_that_leaves_nothing_out_is_refused_before_the_work(tokenizer, text):
    model = make_model("llama")
    recipe = {"sparsity": 0.5, "rows": "optimal", "optimal": {"leave_out": ["*.q_proj", "*.qproj"]}}
    events = []
    with pytest.raises(TrimPruneError, match=r"leave_out matches no linear(.|\n)*layers\.0(.|\n)*'\*\.qproj'"):
        prune(model, recipe, [text], tokenizer=tokenizer, on_event=events.append)
    assert not [event for event in events if event.kind == "calibration"]


@pytest.mark.parametrize(
    ("leave_out", "even"),
    [
        (None, set()),
        (["*.q_proj", "*.k_proj"], {"q_proj", "k_proj"}),
        (["*.mlp.*"], {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_linears_left_out_keep_uniform_rows(tokenizer, text, leave_out, even):
    options = {} if leave_out is None else {"optimal": {"leave_out": leave_out}}
    recipe = {"sparsity": 0.6, "score": "wanda", "rows": "optimal", "samples": 8, "seqlen": 32} | options
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    found = {linear.name.rsplit(".", 1)[1]: linear.row_max - linear.row_min for linear in result.linears}
    assert {name for name, range_ in found.items() if range_ <= 1} == even
