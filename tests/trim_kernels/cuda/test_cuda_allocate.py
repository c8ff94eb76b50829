"""allocate_rows on the CUDA kernels: all rates at once, one graph, the reference's outcome."""

from __future__ import annotations

import pytest
import torch

from trim_kernels import allocate_rows, testing

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
METRICS = [("cosine", "cosine"), ("mse_rows", "mse"), ("psnr", "psnr"), ("snr", "cosine")]


@pytest.fixture(params=["9.0", "8.0"], ids=["wgmma", "mma"])
def capability(request, monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_CAPABILITY", request.param)


@pytest.mark.parametrize("metrics", METRICS, ids="-".join)
@pytest.mark.parametrize("rounding", ["floor", "exact"])
def test_the_outcome_is_the_references(rounding, metrics):
    weight, inputs, column_scale = testing.heavy_tailed(40, 96, 33)
    testing.check_allocate_rows(
        "cuda",
        weight,
        inputs,
        0.6,
        column_scale=column_scale,
        rounding=rounding,
        layer_metric=metrics[0],
        row_metric=metrics[1],
    )


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("rounding", ["floor", "exact"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_outcome_is_the_references_on_tensor_cores(dtype, rounding):
    weight, inputs, column_scale = testing.heavy_tailed(150, 70, 20)
    weight, inputs = weight.to(testing.DTYPES[dtype]), inputs.to(testing.DTYPES[dtype])
    testing.check_allocate_rows(
        "cuda", weight, inputs, 0.7, column_scale=column_scale, rounding=rounding, learning_rates=(0.02, 0.08)
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.011, 0.5, 0.94, 0.95])
@pytest.mark.parametrize("shape", [(1, 50), (9, 7), (600, 20)], ids=str)
def test_budgets_are_exact(shape, sparsity):
    weight, inputs, _ = testing.heavy_tailed(*shape, 5)
    total = round(sparsity * weight.numel())
    try:
        expected = allocate_rows(weight, inputs, sparsity, iterations=2, backend="reference")
    except ValueError as impossible:
        with pytest.raises(ValueError, match=str(impossible)[:40]):
            allocate_rows(weight, inputs, sparsity, iterations=2, backend="cuda")
        return
    got = allocate_rows(weight, inputs, sparsity, iterations=2, backend="cuda")
    assert int(got.prune_count.sum()) == int(expected.prune_count.sum()) == total
    assert got.prune_count.min() >= 0
    assert got.quality >= got.baseline_quality


@pytest.mark.parametrize("rates", [((), ()), ((0.02,), ()), ((), (-0.02,))], ids=str)
def test_any_number_of_rates(rates):
    weight, inputs, column_scale = testing.heavy_tailed(12, 40, 9)
    options = {"learning_rates": rates[0], "negative_learning_rates": rates[1], "iterations": 3}
    got = testing.check_allocate_rows("cuda", weight, inputs, 0.5, column_scale=column_scale, **options)
    assert [trial.learning_rate for trial in got.trace] == [*rates[0], *rates[1]]


def test_a_second_search_of_the_same_shape_is_no_replay_of_the_first():
    for seed in range(2):
        weight, inputs, column_scale = testing.heavy_tailed(30, 50, 12, seed=seed)
        testing.check_allocate_rows("cuda", weight, inputs, 0.6, column_scale=column_scale, iterations=3)


def test_nothing_to_search_without_iterations():
    weight, inputs, _ = testing.heavy_tailed(8, 20, 5)
    got = allocate_rows(weight, inputs, 0.5, iterations=0, backend="cuda")
    assert (got.iteration, got.learning_rate) == (0, None)
    assert int(got.prune_count.sum()) == 80


def test_every_schedule_has_the_same_outcome(cuda_on_cpu):
    weight, inputs, column_scale = testing.heavy_tailed(40, 64, 16)
    found = []
    for seed in range(3):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        found.append(allocate_rows(weight, inputs, 0.6, column_scale=column_scale, iterations=3, backend="cuda"))
    assert all(torch.equal(found[0].prune_count, other.prune_count) for other in found)
    assert found[0].trace == found[1].trace == found[2].trace


def test_a_metric_of_whole_outputs_is_refused():
    weight, inputs, _ = testing.heavy_tailed(8, 20, 5)
    with pytest.raises(
        ValueError, match=r"^backend: 'cuda' cannot run allocate_rows: layer_metric 'mae' needs the outputs"
    ):
        allocate_rows(weight, inputs, 0.5, layer_metric="mae", backend="cuda")
