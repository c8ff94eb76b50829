from __future__ import annotations

from functools import partial

import pytest
import torch

import trim_kernels
from benchmarks.baselines import sparsegpt_paper
from trim_prune import Recipe, TrimPruneError
from trim_prune.factor import factorise
from trim_prune.pattern import Keep
from trim_prune.solvers import sparsegpt

MASKS = ["fixed", "inside", "blocks"]


@pytest.fixture
def solve(solve):
    """With the published damping, unless another is given."""
    return partial(solve, damping=0.01)


def wandas_mask(weight, gram, counts):
    return trim_kernels.row_mask(weight, counts, column_scale=gram.diagonal().double().sqrt().float())


def counts_of(kept):
    return (~kept).sum(dim=1, dtype=torch.int32)


def dense_factor(gram):
    """U in float64 with U^T U the inverse of the Gram matrix with 1 % damping."""
    damped = gram.double()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    return torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)


def chosen_inside(weight, gram, counts, block, compete):
    """Weights chosen anew before each block of columns, among all that are left; column by column in float64."""
    weight, upper, kept = weight.double(), dense_factor(gram), torch.ones(weight.shape, dtype=torch.bool)
    left, total = counts.long(), int(counts.sum())
    for first in range(0, weight.shape[1], block):
        score = (weight[:, first:] / upper.diagonal()[first:]).square()
        goes = torch.zeros_like(score, dtype=torch.bool)
        if compete:
            goes.view(-1)[score.flatten().argsort(stable=True)[:total]] = True
        else:
            for row, order in enumerate(score.argsort(dim=1, stable=True)):
                goes[row, order[: left[row]]] = True
        goes = goes[:, :block]
        left, total = left - goes.sum(1), total - int(goes.sum())
        kept[:, first : first + block] = ~goes
        for column in range(goes.shape[1]):
            j = first + column
            error = weight[:, j] / upper[j, j] * goes[:, column]
            weight[:, j:] -= error[:, None] * upper[j, j:]
            weight[:, j][goes[:, column]] = 0
    return weight, kept


@pytest.mark.parametrize("counts", [0, 13, "rows", 40])
def test_fixed_is_the_update_on_the_mask_of_the_scores(solve, linear, counts):
    weight, inputs = linear(12, 40, 200)
    counts = torch.arange(12, dtype=torch.int32) * 3 if counts == "rows" else counts
    solved = solve("sparsegpt", weight, inputs, counts)
    counts = torch.as_tensor(counts, dtype=torch.int32).expand(12).contiguous()
    expected, kept = weight.clone(), wandas_mask(weight, solved.gram, counts)
    trim_kernels.obs_update_(expected, kept, factorise(solved.gram, 1, 0.01).upper)
    assert torch.equal(solved.kept, kept)
    assert torch.equal(solved.weight, expected)


@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("columns", [8, 16, 37])
@pytest.mark.parametrize("seed", range(3))
def test_inside_chooses_among_all_columns_that_are_left(solve, linear, monkeypatch, compete, columns, seed):
    monkeypatch.setattr(sparsegpt, "BLOCK", 8)
    weight, inputs = linear(6, columns, 150, seed)
    counts = torch.arange(6, dtype=torch.int32) * columns // 6
    solved = solve("sparsegpt", weight, inputs, counts, compete=compete, mask="inside")
    expected, kept = chosen_inside(weight, solved.gram, counts, 8, compete)
    assert torch.equal(solved.kept, kept)
    torch.testing.assert_close(solved.weight.double(), expected, rtol=1e-3, atol=1e-5)


def test_inside_keeps_the_counts_of_rows_or_their_sum(solve, linear):
    weight, inputs = linear(12, 300, 900)
    counts = torch.arange(12, dtype=torch.int32) * 20
    bound = solve("sparsegpt", weight, inputs, counts, mask="inside")
    free = solve("sparsegpt", weight, inputs, counts, compete=True, mask="inside")
    assert torch.equal(counts_of(bound.kept), counts)
    assert not torch.equal(counts_of(free.kept), counts)
    assert int(counts_of(free.kept).sum()) == int(counts.sum())


def test_panels_of_blocks_change_nothing_but_the_order_of_sums(solve, linear, monkeypatch):
    weight, inputs = linear(9, 300, 500)
    whole = solve("sparsegpt", weight, inputs, 200, mask="blocks")
    monkeypatch.setattr(sparsegpt, "PANEL", 128)
    single = solve("sparsegpt", weight, inputs, 200, mask="blocks")
    assert torch.equal(whole.kept, single.kept)
    torch.testing.assert_close(whole.weight, single.weight, rtol=1e-3, atol=1e-6)


# With sparsity (k - 0.5) / n the published threshold takes int(n * sparsity) + 1 = k of the n weights of a block.
@pytest.mark.parametrize("each", [1, 700, 1434, 2047])
@pytest.mark.parametrize("seed", range(2))
def test_blocks_with_the_published_counts_is_the_published_algorithm(solve, linear, each, seed):
    weight, inputs = linear(16, 256, 700, seed)
    published, size = weight.clone(), 16 * 128
    counts = trim_kernels.uniform_counts(16, 256, 2 * each)
    solved = solve("sparsegpt", weight, inputs, counts, compete=True, mask="blocks")
    sparsegpt_paper.update(published, factorise(solved.gram, 1, 0.01).upper, (each - 0.5) / size)
    assert torch.equal(solved.weight == 0, published == 0)
    assert torch.equal(~solved.kept, published == 0)
    torch.testing.assert_close(solved.weight, published, rtol=1e-3, atol=1e-5)


def test_blocks_with_the_published_statistics_differs_by_float_ties_only(solve, linear):
    weight, inputs = linear(16, 256, 700)
    published, hessian, samples = weight.clone(), torch.zeros(256, 256), 0
    for part in inputs.split(100):
        samples = sparsegpt_paper.add_batch(hessian, samples, part)
    factor, dead = sparsegpt_paper.factorise(hessian)
    assert not dead.any()
    sparsegpt_paper.update(published, factor, (1434 - 0.5) / 2048)
    counts = trim_kernels.uniform_counts(16, 256, 2 * 1434)
    solved = solve("sparsegpt", weight, inputs, counts, compete=True, mask="blocks")
    other = solved.kept != (published != 0)
    assert int(other.sum()) <= 4
    torch.testing.assert_close(solved.errors, errors_of(solved, published), rtol=1e-2, atol=0)


def errors_of(solved, weight):
    difference = solved.before.double() - weight.double()
    return ((difference @ solved.gram.double()) * difference).sum(dim=1)


def test_deliberate_difference_blocks_takes_exactly_what_was_asked(solve, linear):
    weight, inputs = linear(10, 300, 700)
    published, sizes = weight.clone(), [10 * 128, 10 * 128, 10 * 44]
    total = round(0.7 * weight.numel())
    counts = trim_kernels.uniform_counts(10, 300, total)
    solved = solve("sparsegpt", weight, inputs, counts, compete=True, mask="blocks")
    sparsegpt_paper.update(published, factorise(solved.gram, 1, 0.01).upper, 0.7)
    ours, theirs = (
        [int((w[:, a:b] == 0).sum()) for a, b in ((0, 128), (128, 256), (256, 300))] for w in (solved.weight, published)
    )
    # Cumulated shares, rounded: their sum is the total. The published threshold takes one more in every block.
    assert ours == [
        round(total * 128 / 300),
        round(total * 256 / 300) - round(total * 128 / 300),
        total - round(total * 256 / 300),
    ]
    assert theirs == [int(0.7 * size) + 1 for size in sizes]
    assert sum(ours) == total < sum(theirs)


def test_deliberate_difference_ties_go_in_row_major_order(solve):
    weight, inputs = torch.ones(4, 128), 2 * torch.eye(128)
    counts = trim_kernels.uniform_counts(4, 128, 200)
    solved = solve("sparsegpt", weight, inputs, counts, compete=True, mask="blocks")
    published = weight.clone()
    sparsegpt_paper.update(published, factorise(solved.gram, 1, 0.01).upper, 199.5 / 512)
    assert torch.equal(~solved.kept.flatten(), torch.arange(512) < 200)
    assert not published.any()


def test_deliberate_difference_dead_columns_go_no_further_than_the_count(solve, linear):
    weight, inputs = linear(16, 128, 400)
    inputs[:, :32] = 0
    weight[:, :32] *= 1e-3
    counts = trim_kernels.uniform_counts(16, 128, 300)
    solved = solve("sparsegpt", weight, inputs, counts, compete=True, mask="blocks")
    # The published script sets all 512 weights of dead columns to zero before it begins; they cost nothing, but the
    # sparsity is then not what was asked for.
    factor, dead = sparsegpt_paper.factorise(solved.gram)
    assert dead.tolist() == 32 * [True] + 96 * [False]
    assert int((solved.weight == 0).sum()) == 300
    assert solved.kept[:, 32:].all()
    kept = solved.kept[:, :32]
    assert torch.equal(solved.weight[:, :32][kept], weight[:, :32][kept])
    torch.testing.assert_close(solved.weight[:, 32:], weight[:, 32:], rtol=1e-6, atol=0)
    assert factor.isfinite().all()


def test_blocks_of_bound_rows_take_the_share_of_each_row(solve, linear):
    weight, inputs = linear(12, 300, 900)
    counts = torch.arange(12, dtype=torch.int32) * 20
    solved = solve("sparsegpt", weight, inputs, counts, mask="blocks")
    for last in (128, 256, 300):
        expected = [round(int(count) * last / 300) for count in counts]
        assert counts_of(solved.kept[:, :last]).tolist() == expected


@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (9, 1), (1, 37), (3, 7), (1, 300), (5, 129), (4, 256)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("refine", [0, 2])
def test_odd_shapes_prune_everything_or_nothing(solve, linear, mask, compete, rows, columns, share, refine):
    weight, inputs = linear(rows, columns, 60)
    solved = solve("sparsegpt", weight, inputs, round(share * columns), compete=compete, mask=mask, refine=refine)
    if share == 0:
        torch.testing.assert_close(solved.weight, weight, rtol=1e-5 if refine else 0, atol=0)
    assert int((solved.weight == 0).sum()) == rows * round(share * columns)


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tokens", [100, 1000])
def test_the_output_error_is_below_that_of_the_mask(solve, linear, mask, tokens, damping):
    weight, inputs = linear(24, 200, tokens)
    plain = solve("mask", weight, inputs, 120).errors.sum()
    solved = solve("sparsegpt", weight, inputs, 120, mask=mask, damping=damping).errors.sum()
    refined = solve("sparsegpt", weight, inputs, 120, mask=mask, damping=damping, refine=10).errors.sum()
    assert refined < solved < plain


@pytest.mark.parametrize("mask", MASKS)
def test_refining_keeps_the_mask_and_nears_the_least_squares(solve, linear, mask):
    weight, inputs = linear(10, 60, 300)
    solved = [solve("sparsegpt", weight, inputs, 40, mask=mask, refine=steps) for steps in (0, 5, 60)]
    assert all(torch.equal(other.kept, solved[0].kept) for other in solved)
    gram = solved[0].gram.double()
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    best = torch.zeros(weight.shape, dtype=torch.float64)
    for row, (value, kept) in enumerate(zip(weight.double(), solved[0].kept, strict=True)):
        best[row, kept] = torch.linalg.solve(gram[kept][:, kept], (gram @ value)[kept])

    def error(weights):
        difference = weight.double() - weights.double()
        return float(((difference @ gram) * difference).sum())

    start, better, final = (error(one.weight) for one in solved)
    assert final <= better < start
    assert final <= error(best) * (1 + 1e-3)


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("refine", [0, 3])
def test_inputs_that_are_all_zero_leave_finite_weights(solve, linear, mask, refine, damping):
    weight, inputs = linear(4, 16, 10)
    solved = solve("sparsegpt", weight, 0 * inputs, 7, mask=mask, damping=damping, refine=refine)
    assert torch.equal(solved.weight, weight * solved.kept)


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("refine", [0, 3])
def test_columns_without_input_get_no_other_weights(solve, linear, mask, refine, damping):
    weight, inputs = linear(8, 24, 100)
    inputs[:, :10] = 0
    solved = solve("sparsegpt", weight, inputs, 12, mask=mask, damping=damping, refine=refine)
    kept = solved.kept[:, :10]
    torch.testing.assert_close(solved.weight[:, :10][kept], weight[:, :10][kept], rtol=1e-6, atol=0)


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_inside_takes_weights_without_input_first(solve, linear, size, compete, damping):
    weight, inputs = linear(8, 200, 500)
    inputs[:, 50:70], inputs[:, 150:160] = 0, 0
    weight[:, 50:70] *= 1e3
    dead = inputs.square().sum(0) == 0
    fewer, more = (
        solve("sparsegpt", weight, size * inputs, count, compete=compete, mask="inside", damping=damping)
        for count in (20, 40)
    )
    assert fewer.kept[:, ~dead].all()
    assert not more.kept[:, dead].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("refine", [0, 3])
def test_half_weights_are_solved_in_float32_and_rounded(solve, linear, dtype, mask, refine):
    weight, inputs = linear(20, 150, 300)
    half = weight.to(dtype)
    solved, same = (solve("sparsegpt", w, inputs, 90, mask=mask, refine=refine) for w in (half, half.float()))
    assert solved.weight.dtype == dtype
    assert torch.equal(solved.kept, same.kept)
    assert torch.equal(solved.weight, same.weight.to(dtype))


@pytest.mark.parametrize("mask", MASKS)
def test_a_strided_weight_is_pruned_in_place(solve, linear, mask):
    weight, inputs = linear(10, 150, 300)
    strided = weight.t().contiguous().t()
    solved, same = (solve("sparsegpt", w, inputs, 90, mask=mask) for w in (strided, weight))
    assert torch.equal(solved.weight, same.weight)


@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_without_a_factor_it_is_the_mask(solve, linear, mask, compete):
    weight, inputs = linear(6, 16, 40)
    nowhere = torch.full((16, 16), torch.nan)
    solved = solve("sparsegpt", weight, inputs, 8, compete=compete, gram=nowhere, mask=mask, refine=3)
    plain = solve("mask", weight, inputs, 8)
    assert torch.equal(solved.weight, plain.weight)
    assert torch.equal(solved.kept, plain.kept)


@pytest.mark.parametrize("mask", MASKS)
def test_refining_takes_the_rung_that_was_reached(solve, coupled, mask):
    weight, inputs, gram = coupled
    plain, refined = (solve("sparsegpt", weight, inputs, 3, gram=gram, mask=mask, refine=steps) for steps in (0, 60))
    damped = gram.double() + torch.eye(6)

    def error(solved):
        difference = weight.double() - solved.weight.double()
        return ((difference @ damped) * difference).sum(dim=1)

    assert torch.equal(plain.kept, refined.kept)
    assert (error(refined) <= error(plain) * (1 + 1e-5)).all()
    assert refined.weight.abs().max() < 2 * weight.abs().max()


@pytest.mark.parametrize("options", [{"mask": "outside"}, {"refine": -1}, {"refine": True}, {"block": 64}], ids=str)
def test_unknown_options_are_refused(options):
    with pytest.raises(TrimPruneError, match=f"sparsegpt.{next(iter(options))}"):
        Recipe.build({"sparsity": 0.5, "solver": "sparsegpt", "sparsegpt": options})


def chosen_in_groups(weight, gram, keep, of):
    """Weights chosen anew before each group of columns; column by column in float64."""
    weight, upper, kept = weight.double(), dense_factor(gram), torch.ones(weight.shape, dtype=torch.bool)
    for first in range(0, weight.shape[1], of):
        size = min(of, weight.shape[1] - first)
        score = (weight[:, first : first + size] / upper.diagonal()[first : first + size]).square()
        goes = torch.zeros_like(score, dtype=torch.bool)
        goes.scatter_(1, score.argsort(dim=1, stable=True)[:, : size - -(-keep * size // of)], True)
        kept[:, first : first + size] = ~goes
        for column in range(size):
            j = first + column
            error = weight[:, j] / upper[j, j] * goes[:, column]
            weight[:, j:] -= error[:, None] * upper[j, j:]
            weight[:, j][goes[:, column]] = 0
    return weight, kept


@pytest.mark.parametrize("mask", ["inside", "blocks"])
@pytest.mark.parametrize(("keep", "of"), [(2, 4), (3, 7), (0, 5), (1, 1), (5, 32)])
@pytest.mark.parametrize("columns", [32, 45])
def test_a_pattern_is_chosen_group_by_group_from_updated_weights(solve, linear, monkeypatch, mask, keep, of, columns):
    monkeypatch.setattr(sparsegpt, "BLOCK", 16)
    weight, inputs = linear(9, columns, 200)
    count = columns - Keep(keep, of).of_row(columns)
    solved = solve("sparsegpt", weight, inputs, count, pattern=Keep(keep, of), mask=mask)
    expected, kept = chosen_in_groups(weight, solved.gram, keep, of)
    assert torch.equal(solved.kept, kept)
    torch.testing.assert_close(solved.weight.double(), expected, rtol=1e-3, atol=1e-5)


def test_a_fixed_pattern_is_the_update_on_the_mask_of_the_scores(solve, linear):
    weight, inputs = linear(9, 45, 200)
    solved = solve("sparsegpt", weight, inputs, 45 - Keep(2, 4).of_row(45), pattern=Keep(2, 4))
    scale = solved.gram.diagonal().double().sqrt().float()
    assert torch.equal(solved.kept, trim_kernels.nm_mask(weight, 2, 4, column_scale=scale))
