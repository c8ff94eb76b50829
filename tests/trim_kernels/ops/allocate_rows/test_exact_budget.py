"""rounding="exact": the asked total to the weight, no row beyond its cap, never worse than equal shares."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import allocate_rows, row_quality, testing
from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS, layer_metric_names
from trim_kernels.ops.allocate_rows.rounding import row_cap, total_count

any_backend = hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])


@hypothesis.given(
    shape=st.tuples(st.integers(1, 24), st.integers(1, 50), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    sparsity=st.floats(0, 1),
    max_sparsity=st.floats(0, 1),
    row_metric=st.sampled_from(list(ROW_METRICS)),
    layer_metric=st.sampled_from(["cosine", "cosine_rows", "mse", "mse_rows"]),
)
@any_backend
def test_any_feasible_request_is_met_and_any_other_refused(
    backend, shape, seed, sparsity, max_sparsity, row_metric, layer_metric
):
    rows, columns, tokens = shape
    weight, inputs, _ = testing.heavy_tailed(rows, columns, tokens, seed)
    options = {"max_sparsity": max_sparsity, "row_metric": row_metric, "layer_metric": layer_metric}
    total, cap = total_count(rows, columns, sparsity), row_cap(columns, max_sparsity)
    if total > rows * cap:
        with pytest.raises(ValueError, match=r"^sparsity: expected at most .*; ask for less or raise max_sparsity$"):
            allocate_rows(weight, inputs, sparsity, **options, backend=backend)
        return
    found = allocate_rows(weight, inputs, sparsity, **options, backend=backend)
    assert found.prune_count.dtype == torch.int32
    assert found.prune_count.sum() == total
    assert found.prune_count.min() >= 0
    assert found.prune_count.max() <= cap
    assert found.quality >= found.baseline_quality
    assert found.sparsity == total / (rows * columns)


@pytest.mark.parametrize("row_metric", ROW_METRICS)
@pytest.mark.parametrize("layer_metric", layer_metric_names())
def test_native_budget_is_as_good_as_the_references(layer_metric, row_metric, backend):
    if backend == "cpu" and layer_metric in ("mae", "cosine_tokens", "psnr_tokens"):
        pytest.skip("these metrics run on the reference")
    for seed, sparsity in enumerate((0.5, 0.7, 0.9)):
        weight, inputs, column_scale = testing.heavy_tailed(64, 96, 32, seed)
        testing.check_allocate_rows(
            backend,
            weight,
            inputs,
            sparsity,
            column_scale=column_scale,
            layer_metric=layer_metric,
            row_metric=row_metric,
        )


@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_native_budget_takes_any_dtype_layout_and_scoring(dtype, layout, scoring, instruction_set):
    matrix, inputs, _ = testing.heavy_tailed(33, 70, 17)
    weight = testing.LAYOUTS[layout](matrix.to(testing.DTYPES[dtype]))
    for rounding in ("exact", "floor"):
        testing.check_allocate_rows("cpu", weight, inputs, 0.6, rounding=rounding, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_inputs_may_be_of_any_dtype_and_layout(dtype, backend):
    weight, inputs, _ = testing.heavy_tailed(12, 30, 8)
    inputs = inputs.to(testing.DTYPES[dtype])
    expected = allocate_rows(weight, inputs.float(), 0.5, backend=backend)
    for layout in testing.LAYOUTS.values():
        found = allocate_rows(weight, layout(inputs), 0.5, backend=backend)
        assert torch.equal(found.prune_count, expected.prune_count)


def test_the_search_beats_equal_shares_where_rows_differ(backend):
    weight, inputs, column_scale = testing.heavy_tailed(96, 160, 64)
    found = allocate_rows(weight, inputs, 0.7, column_scale=column_scale, backend=backend)
    uniform = row_quality(weight, 112, inputs, column_scale=column_scale, backend="reference").layer_cosine
    assert found.baseline_quality == pytest.approx(uniform, rel=1e-6)
    assert found.quality > found.baseline_quality


def test_arguments_are_left_alone(backend):
    weight, inputs, column_scale = testing.heavy_tailed(12, 30, 8)
    before = [tensor.clone() for tensor in (weight, inputs, column_scale)]
    allocate_rows(weight, inputs, 0.5, column_scale=column_scale, backend=backend)
    assert all(map(torch.equal, before, (weight, inputs, column_scale)))


def test_a_parameter_is_searched_like_a_tensor(backend):
    weight, inputs, _ = testing.heavy_tailed(12, 30, 8)
    found = allocate_rows(torch.nn.Parameter(weight), inputs, 0.5, backend=backend)
    assert torch.equal(found.prune_count, allocate_rows(weight, inputs, 0.5, backend=backend).prune_count)
    assert not found.prune_count.requires_grad
