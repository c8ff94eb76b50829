from __future__ import annotations

import pytest
import torch

from trim_prune import Recipe
from trim_prune.pattern import Keep


def least_squares(weight, kept, damped):
    """The best weights float64 of every row on its support, by solving for it directly."""
    solution, damped = torch.zeros(weight.shape, dtype=torch.float64), damped.double()
    for row, (value, support) in enumerate(zip(weight.double(), kept, strict=True)):
        solution[row, support] = torch.linalg.solve(damped[support][:, support], (damped @ value)[support])
    return solution


def damp(gram, damping):
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram))


@pytest.mark.parametrize("damping", [0.02, 0.5])
@pytest.mark.parametrize("tokens", [20, 400])
def test_the_weights_of_the_masks_support_are_the_least_squares(solve, linear, damping, tokens):
    weight, inputs = linear(12, 40, tokens)
    counts = torch.arange(12, dtype=torch.int32) * 3
    solved = solve("alps", weight, inputs, counts, support="score", damping=damping, cg_steps=60)
    direct = least_squares(weight, solved.kept, damp(solved.gram, damping))
    norm = solved.gram.diagonal().sqrt()
    torch.testing.assert_close((solved.weight * norm).double(), direct * norm, rtol=1e-3, atol=1e-3)
    assert torch.equal(solved.kept, solve("mask", weight, inputs, counts).kept)


def test_the_error_falls_from_mask_to_new_weights_to_a_new_support(solve, linear):
    weight, inputs = linear(64, 96, 800)
    plain = solve("mask", weight, inputs, 60).errors.sum()
    weights = solve("alps", weight, inputs, 60, support="score").errors.sum()
    support = solve("alps", weight, inputs, 60).errors.sum()
    free = solve("alps", weight, inputs, 60, compete=True).errors.sum()
    assert free < support < 0.9 * weights < 0.9 * plain


@pytest.mark.parametrize("pattern", [Keep(2, 4), Keep(3, 8), Keep(5, 7)], ids=str)
@pytest.mark.parametrize("support", ["score", "rows"])
def test_every_group_keeps_what_a_pattern_says(solve, linear, support, pattern):
    weight, inputs = linear(24, 56, 400)
    count = 56 // pattern.of * (pattern.of - pattern.keep)
    plain = solve("mask", weight, inputs, count, pattern=pattern)
    solved = solve("alps", weight, inputs, count, pattern=pattern, support=support)
    assert (solved.kept.view(24, -1, pattern.of).sum(dim=2) == pattern.keep).all()
    assert (solved.errors <= plain.errors * (1 + 1e-4)).all()
    assert solved.errors.sum() < 0.9 * plain.errors.sum()


def test_a_pattern_is_better_with_a_support_of_its_own(solve, linear):
    weight, inputs = linear(24, 56, 400)
    score, rows = (
        solve("alps", weight, inputs, 28, pattern=Keep(2, 4), support=support) for support in ("score", "rows")
    )
    assert rows.errors.sum() < 0.95 * score.errors.sum()


def test_the_final_weights_are_the_least_squares_of_the_final_support(solve, linear):
    weight, inputs = linear(20, 32, 200)
    solved = solve("alps", weight, inputs, 18, cg_steps=60)
    diagonal = solved.gram.diagonal()
    direct = least_squares(weight, solved.kept, solved.gram + 2 * 32 / 200 * diagonal.diag())
    norm = diagonal.sqrt()
    torch.testing.assert_close((solved.weight * norm).double(), direct * norm, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_support_is_near_the_best_of_all(solve, linear, seed):
    weight, inputs = linear(40, 8, 60, seed)
    damped = solve("alps", weight, inputs, 4, damping=0.1, cg_steps=20)
    best = torch.full((40,), torch.inf, dtype=torch.float64)
    for columns in torch.combinations(torch.arange(8), 4):
        kept = torch.zeros(40, 8, dtype=torch.bool)
        kept[:, columns] = True
        difference = weight.double() - least_squares(weight, kept, damp(damped.gram, 0.1))
        best = torch.minimum(best, (difference @ damp(damped.gram, 0.1).double() * difference).sum(1))
    difference = weight.double() - damped.weight.double()
    ours = (difference @ damp(damped.gram, 0.1).double() * difference).sum(1)
    assert (ours >= best * (1 - 1e-5)).all()
    assert (ours <= best * 1.001).double().mean() > 2 / 3
    assert (ours / best).mean() < 1.2


@pytest.mark.parametrize("admm", [{"support": "score"}, {"iterations": 1}, {"iterations": 300}])
@pytest.mark.parametrize("tokens", [4, 30, 500])
def test_no_row_is_worse_than_with_the_mask(solve, linear, admm, tokens):
    weight, inputs = linear(30, 48, tokens)
    counts = torch.arange(30, dtype=torch.int32) + 9
    plain = solve("mask", weight, inputs, counts)
    solved = solve("alps", weight, inputs, counts, damping=0.01, **admm)
    assert (solved.errors <= plain.errors * (1 + 1e-5)).all()


def test_rows_that_would_be_worse_keep_the_mask_and_it_is_told(solve, linear):
    weight, inputs = linear(30, 48, 300)
    plain = solve("mask", weight, inputs, 30)
    solved = solve("alps", weight, inputs, 30, iterations=3, cg_steps=0)
    same = (solved.weight == plain.weight).all(dim=1)
    assert 0 < int(same.sum()) < 30
    assert solved.steps == [f"alps: kept the mask's weights in {int(same.sum())} rows"]
    assert solve("alps", weight, inputs, 30).steps == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("count", [1, 30, 47])
def test_rounding_alone_is_no_fallback_and_no_row_ends_worse_by_it(solve, linear, dtype, compete, count):
    weight, inputs = linear(30, 48, 300)
    weight = weight.to(dtype)
    plain = solve("mask", weight, inputs, count)
    solved = solve("alps", weight, inputs, count, compete=compete, support="score", cg_steps=0)
    assert solved.steps == []
    assert torch.equal(solved.kept, plain.kept)
    torch.testing.assert_close(solved.weight, plain.weight, rtol=1e-6, atol=0)
    ours, before = (found.errors.sum() if compete else found.errors for found in (solved, plain))
    assert (ours <= before * (1 + 1e-6)).all()


@pytest.mark.parametrize("options", [{"support": "score"}, {}])
def test_rows_that_lose_only_zeros_need_no_fallback(solve, linear, options):
    weight, inputs = linear(30, 48, 300)
    sparse = solve("mask", weight, inputs, 30).weight
    solved = solve("alps", sparse, inputs, 20, **options)
    assert solved.steps == []
    assert float(solved.errors.max()) == 0.0


def test_competing_rows_keep_their_sum_and_never_lose_as_a_whole(solve, linear):
    weight, inputs = linear(30, 48, 300)
    plain = solve("mask", weight, inputs, 30)
    free = solve("alps", weight, inputs, 30, compete=True)
    assert free.kept.sum(1).unique().numel() > 1
    rushed = solve("alps", weight, inputs, 30, compete=True, iterations=1, cg_steps=0)
    assert rushed.errors.sum() <= plain.errors.sum() * (1 + 1e-5)


@pytest.mark.parametrize("support", ["score", "rows"])
@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 1), (1, 37), (3, 7)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_odd_shapes_keep_everything_or_nothing(solve, linear, support, compete, rows, columns, share):
    weight, inputs = linear(rows, columns, 20)
    solved = solve("alps", weight, inputs, round(share * columns), compete=compete, support=support)
    if share == 0:
        assert torch.equal(solved.weight, weight)
    assert int((solved.weight == 0).sum()) == rows * round(share * columns)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_solved_in_float32_and_rounded(solve, linear, dtype):
    weight, inputs = linear(20, 48, 300)
    half = weight.to(dtype)
    solved, same = solve("alps", half, inputs, 30), solve("alps", half.float(), inputs, 30)
    assert solved.weight.dtype == dtype
    assert torch.equal(solved.kept, same.kept)
    assert torch.equal(solved.weight, same.weight.to(dtype))


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**100])
def test_tiny_and_huge_weights_are_solved_alike(solve, linear, factor):
    weight, inputs = linear(10, 32, 100)
    usual, scaled = solve("alps", weight, inputs, 20), solve("alps", weight * factor, inputs, 20)
    assert torch.equal(usual.kept, scaled.kept)
    assert torch.equal(usual.weight * factor, scaled.weight)


def test_kept_columns_without_input_keep_their_weights(solve, linear):
    weight, inputs = linear(8, 24, 100)
    inputs[:, :20] = 0
    solved = solve("alps", weight, inputs, 6)
    assert solved.kept[:, 20:].all()
    kept = solved.kept[:, :20]
    assert torch.equal(solved.weight[:, :20][kept], weight[:, :20][kept])


@pytest.mark.parametrize("support", ["score", "rows"])
@pytest.mark.parametrize("compete", [False, True])
def test_without_a_factor_it_is_the_mask(solve, linear, support, compete):
    weight, inputs = linear(6, 16, 40)
    nowhere = torch.full((16, 16), torch.nan)
    solved = solve("alps", weight, inputs, 8, compete=compete, gram=nowhere, support=support)
    plain = solve("mask", weight, inputs, 8)
    assert torch.equal(solved.weight, plain.weight)
    assert torch.equal(solved.kept, plain.kept)


@pytest.mark.parametrize("support", ["score", "rows"])
def test_the_weights_are_those_of_the_rung_that_was_reached(solve, coupled, support):
    weight, inputs, gram = coupled
    solved = solve("alps", weight, inputs, 3, gram=gram, damping=0.01, support=support, cg_steps=60)
    expected = least_squares(weight, solved.kept, damp(gram, 1.0))
    # What is no Gram matrix may find a row worse, which then keeps the mask's weights.
    masked = solve("mask", weight, inputs, 3).weight.double()
    near, same = (
        torch.isclose(solved.weight.double(), other, rtol=1e-4, atol=1e-5).all(dim=1) for other in (expected, masked)
    )
    assert (near | same).all()
    assert int((~near).sum()) <= 1
    assert solved.weight.abs().max() < 2 * weight.abs().max()


def test_a_failed_admm_falls_back_to_the_support_of_the_scores_and_says_so(solve, linear, monkeypatch):
    def refuse(matrix):
        raise torch.linalg.LinAlgError("not positive-definite")

    weight, inputs = linear(6, 16, 40)
    expected = solve("alps", weight, inputs, 8, support="score")
    monkeypatch.setattr(torch.linalg, "cholesky", refuse)
    solved = solve("alps", weight, inputs, 8)
    assert torch.equal(solved.weight, expected.weight)
    assert solved.steps[0] == "alps: support of the scores, ADMM failed (not positive-definite)"


def test_the_same_twice(solve, linear):
    weight, inputs = linear(20, 48, 300)
    first, second = (solve("alps", weight, inputs, 30) for _ in range(2))
    assert torch.equal(first.weight, second.weight)


def test_an_unknown_support_is_refused():
    with pytest.raises(Exception, match=r"alps\.support: .*'score' or 'rows'"):
        Recipe.build({"sparsity": 0.5, "solver": "alps", "alps": {"support": "columns"}})
