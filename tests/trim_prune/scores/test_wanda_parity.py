"""Wanda's masks are those of its published code, with its rounding; every difference is stated."""

from __future__ import annotations

import pytest
import torch

import trim_kernels
from trim_prune import Recipe, score_linear


class PublishedScale:
    """The published running mean over sequences of the squared norm of each column, in float32."""

    def __init__(self, columns):
        self.row, self.samples = torch.zeros(columns), 0

    def add(self, sequence):
        self.row *= self.samples / (self.samples + 1)
        self.samples += 1
        self.row += sequence.float().norm(dim=0) ** 2 / self.samples


def published(weight, inputs, sparsity):
    """Pruned: per row the int(C * sparsity) smallest of |W| sqrt(v), in stable order."""
    scale = PublishedScale(weight.shape[1])
    for sequence in inputs:
        scale.add(sequence)
    metric = weight.abs() * scale.row.sqrt()
    order = metric.sort(dim=1, stable=True).indices
    pruned = torch.zeros(weight.shape, dtype=torch.bool)
    return pruned.scatter_(1, order[:, : int(weight.shape[1] * sparsity)], True), metric


def ours(weight, inputs, counts):
    importance = score_linear(Recipe(sparsity=0.5, score="wanda"), weight, inputs)
    return ~trim_kernels.row_mask(weight, counts, column_scale=importance.column_scale)


def linear(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 32, columns, generator=generator) * torch.randn(columns, generator=generator).exp()
    return torch.randn(rows, columns, generator=generator), inputs


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.617, 0.7, 0.99, 1.0])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 300), (64, 33), (48, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_floor_counts_the_masks_are_equal_but_for_float_ties(rows, columns, sparsity, dtype):
    weight, inputs = linear(rows, columns)
    # torch promotes a product of bfloat16 and float32, as the published code does.
    theirs, metric = published(weight.to(dtype), inputs, sparsity)
    mine = ours(weight.to(dtype), inputs, int(columns * sparsity))
    assert mine.sum(1).tolist() == rows * [int(columns * sparsity)]
    for row in (mine != theirs).any(dim=1).nonzero().flatten():
        # Other weights go only where their scores are the same to float32 rounding of the running mean.
        scores = [metric[row][mask[row] & ~other[row]] for mask, other in ((mine, theirs), (theirs, mine))]
        torch.testing.assert_close(*(score.sort().values for score in scores), rtol=1e-5, atol=0)


def test_equal_scores_go_by_the_lower_column_as_in_a_stable_sort():
    weight = torch.randint(1, 3, (20, 40), generator=torch.Generator().manual_seed(0)).float()
    inputs = torch.ones(4, 4, 40)
    assert torch.equal(ours(weight, inputs, 25), published(weight, inputs, 25 / 40)[0])


def test_deliberate_difference_the_total_is_exact():
    weight, inputs = linear(7, 33)
    theirs, _ = published(weight, inputs, 0.7)
    total = round(0.7 * weight.numel())
    counts = trim_kernels.uniform_counts(7, 33, total)
    mine = ours(weight, inputs, counts)
    assert int(mine.sum()) == total
    assert int(theirs.sum()) == 7 * int(33 * 0.7) < total
    # Rows with the published count lose the published weights, the others one more.
    assert (mine | ~theirs).all()
    assert set((mine & ~theirs).sum(1).tolist()) <= {0, 1}


def test_deliberate_difference_the_scale_is_summed_in_float64_and_rounded_once():
    weight, inputs = linear(1, 64)
    scale = score_linear(Recipe(sparsity=0.5, score="wanda"), weight, inputs).column_scale
    exact = (inputs.double().square().sum((0, 1)) / len(inputs)).sqrt()
    assert torch.equal(scale, exact.float())
    theirs = PublishedScale(64)
    for sequence in inputs:
        theirs.add(sequence)
    torch.testing.assert_close(theirs.row.sqrt(), scale, rtol=1e-6, atol=0)
