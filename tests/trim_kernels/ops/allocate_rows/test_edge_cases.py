from __future__ import annotations

import math

import pytest
import torch

from trim_kernels import allocate_rows, row_quality, testing
from trim_kernels.ops.allocate_rows.metrics import layer_metric_names

NEEDS_OUTPUTS = ("mae", "cosine_tokens", "psnr_tokens")


@pytest.fixture(params=layer_metric_names())
def layer_metric(request, backend):
    if backend == "cpu" and request.param in NEEDS_OUTPUTS:
        pytest.skip("this metric runs on the reference")
    return request.param


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 9), (40, 1, 9), (7, 13, 1), (2, 3, 300)], ids=str)
def test_thin_shapes_work(shape, layer_metric, backend):
    rows, columns, _ = shape
    weight, inputs, _ = testing.heavy_tailed(*shape)
    for rounding in ("exact", "floor"):
        found = allocate_rows(
            weight, inputs, 0.5, layer_metric=layer_metric, max_sparsity=1.0, rounding=rounding, backend=backend
        )
        assert found.prune_count.shape == (rows,)
        assert 0 <= found.prune_count.min() <= found.prune_count.max() <= columns
        assert not math.isnan(found.quality)


@pytest.mark.parametrize("rounding", ["exact", "floor"])
def test_a_single_row_has_nothing_to_spread(rounding, backend):
    weight, inputs, _ = testing.heavy_tailed(1, 40, 9)
    found = allocate_rows(weight, inputs, 0.5, rounding=rounding, backend=backend)
    assert (found.prune_count.tolist(), found.learning_rate, found.iteration) == ([20], None, 0)


def test_zero_weights_stay_uniform(layer_metric, backend):
    found = allocate_rows(torch.zeros(6, 10), torch.ones(10, 4), 0.5, layer_metric=layer_metric, backend=backend)
    assert found.prune_count.tolist() == [5] * 6
    assert (found.learning_rate, found.quality) == (None, found.baseline_quality)
    assert not math.isnan(found.quality)


def test_zero_inputs_stay_uniform(layer_metric, backend):
    weight, _, _ = testing.heavy_tailed(6, 10, 4)
    found = allocate_rows(weight, torch.zeros(10, 4), 0.5, layer_metric=layer_metric, backend=backend)
    assert found.prune_count.tolist() == [5] * 6
    assert found.learning_rate is None
    assert not math.isnan(found.quality)


def test_one_dead_row_among_live_ones_is_no_trouble(layer_metric, backend):
    weight, inputs, _ = testing.heavy_tailed(9, 30, 8)
    weight[4] = 0
    found = testing.check_allocate_rows(backend, weight, inputs, 0.5, layer_metric=layer_metric)
    assert not math.isnan(found.quality)


@pytest.mark.parametrize("metric", ["mse", "mae", "mse_rows"])
def test_dropping_zeros_costs_nothing(metric, backend):
    if metric in NEEDS_OUTPUTS and backend == "cpu":
        pytest.skip("this metric runs on the reference")
    weight, inputs, _ = testing.heavy_tailed(8, 40, 6)
    weight[:, ::2] = 0
    found = allocate_rows(weight, inputs, 0.5, layer_metric=metric, backend=backend)
    assert found.quality == pytest.approx(0, abs=1e-6 * (weight @ inputs).square().mean().item())


@pytest.mark.parametrize("sparsity", [0, 0.0])
def test_sparsity_zero_prunes_nothing(sparsity, layer_metric, backend):
    weight, inputs, _ = testing.heavy_tailed(6, 30, 8)
    found = allocate_rows(weight, inputs, sparsity, layer_metric=layer_metric, backend=backend)
    assert found.prune_count.tolist() == [0] * 6
    assert (found.sparsity, found.learning_rate, found.iteration) == (0.0, None, 0)
    testing.check_allocate_rows(backend, weight, inputs, sparsity, layer_metric=layer_metric)


def test_sparsity_one_prunes_everything(layer_metric, backend):
    weight, inputs, _ = testing.heavy_tailed(6, 30, 8)
    found = allocate_rows(weight, inputs, 1.0, max_sparsity=1.0, layer_metric=layer_metric, backend=backend)
    assert found.prune_count.tolist() == [30] * 6
    assert (found.sparsity, found.learning_rate) == (1.0, None)


def test_every_row_at_its_cap_leaves_no_choice(backend):
    weight, inputs, _ = testing.heavy_tailed(6, 20, 8)
    found = allocate_rows(weight, inputs, 0.95, backend=backend)
    assert found.prune_count.tolist() == [19] * 6


@pytest.mark.parametrize("rounding", ["exact", "floor"])
def test_no_rows_have_an_empty_budget(rounding, backend):
    found = allocate_rows(torch.zeros(0, 10), torch.ones(10, 4), 0.5, rounding=rounding, backend=backend)
    assert found.prune_count.shape == (0,)
    assert (found.learning_rate, found.trace) == (None, ())


# Among rows that are alike the search breaks ties by the last bit of their qualities, and two backends part ways.
ALIKE = ("all_equal", "ascending", "descending")


@pytest.mark.parametrize("matrix", [name for name in testing.MATRICES if name not in ("huge", "no_rows", *ALIKE)])
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_nasty_matrices_get_the_references_quality(matrix, dtype, backend):
    weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype])
    inputs = torch.randn(weight.shape[1], 11, generator=torch.Generator().manual_seed(4))
    testing.check_allocate_rows(backend, weight, inputs, 0.5, max_sparsity=1.0)


@pytest.mark.parametrize("matrix", ALIKE)
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_rows_that_are_alike_get_a_sound_budget(matrix, dtype, backend):
    weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype])
    inputs = torch.randn(weight.shape[1], 11, generator=torch.Generator().manual_seed(4))
    found = allocate_rows(weight, inputs, 0.5, backend=backend)
    assert found.prune_count.sum() == round(weight.numel() / 2)
    assert found.quality >= found.baseline_quality
    measured = row_quality(weight, found.prune_count, inputs, backend="reference").layer_cosine
    assert found.quality == pytest.approx(measured, rel=1e-5)
