"""rounding="floor" walks the path of TRIM's code, transcribed in benchmarks/baselines."""

from __future__ import annotations

import functools

import pytest
import torch

from benchmarks.baselines import trim_paper as paper
from trim_kernels import allocate_rows, explain, testing

ROW_METRICS = list(paper.ROW_METRICS)
LAYER_METRICS = list(paper.LAYER_METRICS)


@functools.cache
def layer(seed, dtype):
    weight, inputs, column_scale = testing.heavy_tailed(96, 160, 64, seed)
    return weight.to(testing.DTYPES[dtype]), inputs, column_scale


@functools.cache
def papers_budget(seed, dtype, sparsity, layer_metric, row_metric):
    weight, inputs, column_scale = layer(seed, dtype)
    return paper.trim_paper(weight, inputs, sparsity, column_scale, layer_metric, row_metric)


def require_papers_budget(backend, seed, dtype, sparsity, layer_metric, row_metric):
    expected = papers_budget(seed, dtype, sparsity, layer_metric, row_metric)
    weight, inputs, column_scale = layer(seed, dtype)
    metrics = {"layer_metric": layer_metric, "row_metric": row_metric}
    if explain("allocate_rows", weight, layer_metric=layer_metric).startswith("allocate_rows: reference"):
        backend = "reference"
    found = allocate_rows(
        weight, inputs, sparsity, column_scale=column_scale, rounding="floor", **metrics, backend=backend
    )
    assert (found.learning_rate, found.iteration) == (expected.learning_rate, expected.iteration)
    assert found.baseline_quality == pytest.approx(expected.baseline_quality, rel=1e-5)
    assert found.quality == pytest.approx(expected.quality, rel=1e-5)
    apart = (found.prune_count - expected.prune_count).abs()
    assert apart.max() <= 1
    assert (apart > 0).sum() <= 1
    assert sum(len(trial.quality) - 1 for trial in found.trace) + 1 == expected.evaluations


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("row_metric", ROW_METRICS)
@pytest.mark.parametrize("layer_metric", LAYER_METRICS)
def test_budget_is_that_of_the_paper(layer_metric, row_metric, sparsity, backend):
    for seed in range(2):
        require_papers_budget(backend, seed, "float32", sparsity, layer_metric, row_metric)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layer_metric", LAYER_METRICS)
def test_budget_is_that_of_the_paper_in_half_precision(layer_metric, dtype, backend):
    # The transcription scores in float32 whatever the dtype, since its column scale is float32.
    require_papers_budget(backend, 2, dtype, 0.5, layer_metric, "cosine")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("row_metric", ["cosine", "psnr"])
def test_negative_rates_win_where_they_win_in_the_paper(row_metric, seed, backend):
    weight, inputs, column_scale = testing.heavy_tailed(64, 96, 32, seed)
    expected = paper.trim_paper(weight, inputs, 0.3, column_scale, "psnr_rows", row_metric)
    found = allocate_rows(
        weight,
        inputs,
        0.3,
        column_scale=column_scale,
        layer_metric="psnr_rows",
        row_metric=row_metric,
        rounding="floor",
        backend=backend,
    )
    assert expected.learning_rate < 0
    assert (found.learning_rate, found.iteration) == (expected.learning_rate, expected.iteration)
    assert (found.prune_count - expected.prune_count).abs().max() <= 1


@pytest.mark.parametrize("row_metric", ROW_METRICS)
def test_rates_and_iterations_may_be_chosen(row_metric, backend):
    weight, inputs, column_scale = layer(0, "float32")
    rates = {"learning_rates": (0.03, 0.06), "negative_learning_rates": (-0.03,), "iterations": 4}
    expected = paper.trim_paper(weight, inputs, 0.6, column_scale, row_metric=row_metric, **rates)
    found = allocate_rows(
        weight,
        inputs,
        0.6,
        column_scale=column_scale,
        row_metric=row_metric,
        rounding="floor",
        **rates,
        backend=backend,
    )
    assert (found.learning_rate, found.iteration) == (expected.learning_rate, expected.iteration)
    assert (found.prune_count - expected.prune_count).abs().max() <= 1


def test_a_layer_whose_rows_are_alike_stays_uniform(backend):
    row, inputs, _ = testing.heavy_tailed(1, 40, 16)
    weight = row.repeat(12, 1)
    expected = paper.trim_paper(weight, inputs, 0.5, torch.ones(40))
    found = allocate_rows(weight, inputs, 0.5, rounding="floor", backend=backend)
    assert (found.learning_rate, found.iteration) == (expected.learning_rate, expected.iteration) == (None, 0)
    assert torch.equal(found.prune_count, expected.prune_count)
