from __future__ import annotations

import math

import pytest
import torch

from trim_kernels import row_quality, testing


def brute_force(weight, counts, inputs, **scores):
    """(|y|^2, |e|^2, <y, e>, max y^2) of each row, by loops over float64."""
    tokens = list(zip(*inputs.tolist(), strict=True))
    found = []
    for row, order, count in zip(
        weight.tolist(), testing.pruning_order(weight, **scores), counts.tolist(), strict=True
    ):
        y = [math.fsum(w * x for w, x in zip(row, token, strict=True)) for token in tokens]
        e = [math.fsum(row[j] * token[j] for j in order[:count]) for token in tokens]
        cross = math.fsum(a * b for a, b in zip(y, e, strict=True))
        found.append((math.fsum(a * a for a in y), math.fsum(b * b for b in e), cross, max(a * a for a in y)))
    return found


@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", ["1x1", "one_row", "one_column", "3x7", "17x129", "all_zero", "ties"])
def test_reference_statistics_are_those_of_the_loops(matrix, dtype, scoring):
    weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype])
    scores = testing.SCORINGS[scoring](weight)
    counts = testing.mixed_counts(weight)
    inputs = torch.randn(weight.shape[1], 6, generator=torch.Generator().manual_seed(2))
    found = row_quality(weight, counts, inputs, **scores, backend="reference")
    got = torch.stack([found.dense_sq, found.dropped_sq, found.cross, found.peak], dim=1)
    expected = torch.tensor(brute_force(weight, counts, inputs, **scores), dtype=torch.float64)
    size = expected.amax(dim=1, keepdim=True)
    assert got.dtype == torch.float64
    assert ((got - expected).abs() <= 1e-5 * size).all()


def outputs(backend):
    """A row_quality of 8 rows, and the dense and pruned outputs it speaks of."""
    weight, inputs, _ = testing.heavy_tailed(8, 40, 9)
    order = torch.tensor(testing.pruning_order(weight))
    pruned = weight.clone().scatter_(1, order[:, :25], 0)
    return row_quality(weight, 25, inputs, backend=backend), (weight @ inputs).double(), (pruned @ inputs).double()


def test_cosine_is_that_of_the_outputs(backend):
    found, dense, pruned = outputs(backend)
    torch.testing.assert_close(found.cosine, torch.cosine_similarity(dense, pruned, dim=1), rtol=1e-5, atol=1e-6)
    expected = torch.cosine_similarity(dense.flatten(), pruned.flatten(), dim=0).item()
    assert found.layer_cosine == pytest.approx(expected, rel=1e-5)


def test_mse_is_that_of_the_outputs(backend):
    found, dense, pruned = outputs(backend)
    torch.testing.assert_close(found.mse, (dense - pruned).square().mean(dim=1), rtol=1e-4, atol=1e-9)
    assert found.layer_mse == pytest.approx((dense - pruned).square().mean().item(), rel=1e-4)


def test_psnr_is_that_of_the_outputs(backend):
    found, dense, pruned = outputs(backend)
    error = (dense - pruned).square()
    expected = 10 * torch.log10(dense.square().amax(dim=1) / (error.mean(dim=1) + 1e-10))
    torch.testing.assert_close(found.psnr, expected, rtol=1e-4, atol=1e-3)
    layer = 10 * math.log10(dense.square().max().item() / (error.mean().item() + 1e-10))
    assert found.layer_psnr == pytest.approx(layer, rel=1e-4)


def test_pruning_nothing_is_perfect(backend):
    weight, inputs, _ = testing.heavy_tailed(5, 30, 7)
    found = row_quality(weight, 0, inputs, backend=backend)
    assert found.dropped_sq.tolist() == found.cross.tolist() == [0.0] * 5
    assert found.layer_cosine == pytest.approx(1, abs=1e-6)
    assert found.layer_mse == 0


def test_pruning_everything_leaves_nothing(backend):
    weight, inputs, _ = testing.heavy_tailed(5, 30, 7)
    found = row_quality(weight, 30, inputs, backend=backend)
    torch.testing.assert_close(found.dropped_sq, found.dense_sq, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.cross, found.dense_sq, rtol=1e-5, atol=0)


def test_a_zero_row_has_zero_quality(backend):
    found = row_quality(torch.zeros(2, 9), 4, torch.ones(9, 3), backend=backend)
    assert found.cosine.tolist() == found.psnr.tolist() == found.mse.tolist() == [0.0, 0.0]
    assert (found.layer_cosine, found.layer_mse, found.layer_psnr) == (0.0, 0.0, 0.0)


def test_no_rows_have_empty_statistics(backend):
    found = row_quality(torch.zeros(0, 9), 4, torch.ones(9, 3), backend=backend)
    assert found.cosine.shape == (0,)
    assert (found.layer_cosine, found.layer_mse, found.layer_psnr) == (0.0, 0.0, 0.0)


def test_statistics_of_a_parameter_are_plain_numbers(backend):
    weight, inputs, _ = testing.heavy_tailed(5, 30, 7)
    found = row_quality(torch.nn.Parameter(weight), 10, inputs, backend=backend)
    assert not found.dense_sq.requires_grad
    assert found.layer_cosine == row_quality(weight, 10, inputs, backend=backend).layer_cosine
