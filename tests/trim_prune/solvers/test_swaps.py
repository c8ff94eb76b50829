from __future__ import annotations

import pytest
import torch

from trim_prune import Recipe, TrimPruneError
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.solvers.gram import damped_correlation
from trim_prune.solvers.swaps import least


def best_change(value, kept, gram):
    """The largest fall of a row's error that exchanging one kept against one pruned weight would bring, and the error.

    By computing the error of every exchanged mask, in float64.
    """

    def error(mask):
        dropped = value.double().masked_fill(mask, 0)
        return float(dropped @ gram.double() @ dropped)

    now, best = error(kept), 0.0
    for p in kept.nonzero().flatten().tolist():
        for q in (~kept).nonzero().flatten().tolist():
            mask = kept.clone()
            mask[p], mask[q] = False, True
            best = max(best, now - error(mask))
    return best, now


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 5, 11])
def test_no_single_exchange_is_left_where_the_shortlist_covers_the_row(solve, linear, seed, count):
    weight, inputs = linear(5, 12, 40, seed)
    solved = solve("swaps", weight, inputs, count, damping=0.0, shortlist=12)
    for value, kept in zip(weight, solved.kept, strict=True):
        fall, error = best_change(value, kept, solved.gram)
        assert fall <= 1e-5 * error


def test_the_damped_error_is_what_falls(solve, linear):
    weight, inputs = linear(4, 10, 6)
    solved = solve("swaps", weight, inputs, 5, damping=0.7, shortlist=10)
    damped = solved.gram + 0.7 * solved.gram.diagonal().mean() * torch.eye(10)
    for value, kept in zip(weight, solved.kept, strict=True):
        fall, error = best_change(value, kept, damped)
        assert fall <= 1e-5 * error


@pytest.mark.parametrize("tokens", [8, 64, 600])
@pytest.mark.parametrize("rounds", [1, 3, 100])
def test_no_row_gets_worse_and_most_get_much_better(solve, linear, tokens, rounds):
    weight, inputs = linear(40, 64, tokens)
    counts = torch.arange(40, dtype=torch.int32) + 12
    plain, solved = (
        solve(name, weight, inputs, counts, **o)
        for name, o in (("mask", {}), ("swaps", {"rounds": rounds, "damping": 0.0}))
    )
    assert (solved.errors <= plain.errors * (1 + 1e-6)).all()
    assert solved.errors.sum() < 0.9 * plain.errors.sum()
    assert torch.equal(solved.weight, weight * solved.kept)


def test_more_rounds_and_longer_shortlists_do_not_hurt(solve, linear):
    weight, inputs = linear(64, 96, 400)
    few, many = (solve("swaps", weight, inputs, 60, rounds=rounds).errors.sum() for rounds in (1, 100))
    short, long = (solve("swaps", weight, inputs, 60, shortlist=size).errors.sum() for size in (1, 96))
    assert many < few
    assert long < short * 1.02


def test_the_rows_do_not_depend_on_each_other(solve, linear, monkeypatch):
    weight, inputs = linear(30, 40, 200)
    whole = solve("swaps", weight, inputs, 24)
    monkeypatch.setattr("trim_prune.tiles.TILE", 7 * 40)
    tiled = solve("swaps", weight, inputs, 24)
    assert torch.equal(whole.kept, tiled.kept)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64])
def test_nearly_empty_and_nearly_full_rows(solve, linear, count):
    weight, inputs = linear(6, 64, 100)
    plain, solved = solve("mask", weight, inputs, count), solve("swaps", weight, inputs, count)
    assert (solved.errors <= plain.errors * (1 + 1e-4)).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 1), (1, 37), (3, 7)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_odd_shapes(solve, linear, rows, columns, share):
    weight, inputs = linear(rows, columns, 20)
    count = round(share * columns)
    assert int((solve("swaps", weight, inputs, count).weight == 0).sum()) == rows * count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_exchanged_as_the_same_values_in_float32(solve, linear, dtype):
    weight, inputs = linear(20, 48, 300)
    half = weight.to(dtype)
    solved, same = solve("swaps", half, inputs, 30), solve("swaps", half.float(), inputs, 30)
    assert solved.weight.dtype == dtype
    assert torch.equal(solved.kept, same.kept)


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**100])
def test_tiny_and_huge_weights_are_exchanged_alike(solve, linear, factor):
    weight, inputs = linear(10, 32, 100)
    assert torch.equal(solve("swaps", weight, inputs, 20).kept, solve("swaps", weight * factor, inputs, 20).kept)


def test_columns_without_input_go_first(solve, linear):
    weight, inputs = linear(8, 24, 100)
    inputs[:, ::4] = 0
    solved = solve("swaps", weight, inputs, 6)
    assert not solved.kept[:, ::4].any()
    assert solved.kept.sum() == 8 * 18


def test_inputs_that_are_all_zero_leave_the_mask_as_it_is(solve, linear):
    weight, inputs = linear(4, 16, 10)
    plain, solved = (solve(name, weight, 0 * inputs, 7) for name in ("mask", "swaps"))
    assert torch.equal(plain.kept, solved.kept)


def test_zero_weights_and_ties_end_and_give_the_same_twice(solve, linear):
    weight, inputs = linear(12, 40, 80)
    weight = (weight / weight.abs().amax() * 3).round()
    inputs = inputs[:, :20].repeat(1, 2)
    first, second = solve("swaps", weight, inputs, 25), solve("swaps", weight, inputs, 25)
    assert torch.equal(first.kept, second.kept)
    assert (first.errors <= solve("mask", weight, inputs, 25).errors * (1 + 1e-4) + 1e-6).all()


def test_a_strided_weight_is_pruned_in_place(solve, linear):
    weight, inputs = linear(10, 32, 100)
    strided = weight.t().contiguous().t()
    assert torch.equal(solve("swaps", strided, inputs, 20).weight, solve("swaps", weight, inputs, 20).weight)


@pytest.mark.parametrize("damping", [None, 0.0, 0.25])
def test_the_damped_correlation_is_the_damped_gram_matrix(linear, damping):
    statistics = LinearStatistics()
    inputs = linear(1, 9, 30)[1]
    inputs[:, 3] = 0
    statistics.add(inputs[None], frozenset({"gram"}), [])
    correlation, norm = damped_correlation(statistics, damping)
    damped = inputs.double().T @ inputs.double()
    diagonal = damped.diagonal().clone()
    damped.diagonal().add_(2 * 9 / 30 * diagonal if damping is None else damping * diagonal.mean())
    largest = damped.diagonal().max()
    torch.testing.assert_close((norm[:, None] * correlation * norm).double(), damped / largest, rtol=1e-4, atol=1e-6)
    assert torch.equal(correlation.diagonal(), torch.ones(9))
    assert float(norm.max()) == 1
    assert (float(norm[3]) > 0) == bool(damping)


def test_options_of_a_solver_that_does_not_run_are_refused():
    with pytest.raises(TrimPruneError, match=r"options of swaps are given(.|\n)*solver: mask(.|\n)*solver: swaps"):
        Recipe.build({"sparsity": 0.5, "swaps": {"rounds": 5}})
    assert Recipe.build({"sparsity": 0.5, "solver": "swaps", "swaps": {"rounds": 5}}).swaps.rounds == 5


@pytest.mark.parametrize(("rows", "columns", "size"), [(5, 640, 8), (1, 641, 8), (40, 96, 96), (3, 7, 3), (2, 1, 1)])
def test_the_least_of_a_row_are_found_by_groups(rows, columns, size):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    values[0, columns // 3 :] = torch.inf
    found = least(values, size)
    assert torch.equal(values.gather(1, found), values.sort(dim=1).values[:, :size])
    assert all(len(set(row)) == size for row in found.tolist())
