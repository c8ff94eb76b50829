"""row_quality on the CUDA kernels: on mma, on Hopper's wgmma and in float32, under any schedule."""

from __future__ import annotations

import pytest
import torch

from trim_kernels import row_quality, testing

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
SHAPES = [(1, 1, 1), (5, 33, 7), (70, 100, 70), (130, 200, 40), (20, 640, 130)]


@pytest.fixture(params=["9.0", "8.0"], ids=["wgmma", "mma"])
def capability(request, monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_CAPABILITY", request.param)


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_on_tensor_cores(shape, dtype, scoring):
    weight, inputs, _ = testing.heavy_tailed(*shape)
    weight, inputs = weight.to(testing.DTYPES[dtype]), inputs.to(testing.DTYPES[dtype])
    testing.check_row_quality("cuda", weight, testing.mixed_counts(weight), inputs, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize(("weight_dtype", "inputs_dtype"), [("float32", "float32"), ("bfloat16", "float32")])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_full_float32(shape, weight_dtype, inputs_dtype):
    weight, inputs, column_scale = testing.heavy_tailed(*shape)
    weight, inputs = weight.to(testing.DTYPES[weight_dtype]), inputs.to(testing.DTYPES[inputs_dtype])
    testing.check_row_quality("cuda", weight, testing.mixed_counts(weight), inputs, column_scale=column_scale)


@pytest.mark.usefixtures("capability")
def test_tiles_of_256_tokens_under_any_schedule(cuda_on_cpu):
    weight, inputs, column_scale = testing.heavy_tailed(390, 72, 256)
    weight, inputs = weight.bfloat16(), inputs.bfloat16()
    found = []
    for seed in range(4):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        counts = testing.mixed_counts(weight)
        testing.check_row_quality("cuda", weight, counts, inputs, column_scale=column_scale)
        quality = row_quality(weight, counts, inputs, column_scale=column_scale, backend="cuda")
        found.append(torch.stack([quality.dense_sq, quality.dropped_sq, quality.cross, quality.peak]))
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("columns", [2048, 2050, 4100])
def test_long_sums_do_not_lose_what_tensor_cores_cut_off(columns):
    weight = torch.rand(3, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    inputs = torch.rand(columns, 5, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = row_quality(weight, 0, inputs, backend="cuda")
    truth = (weight.double() @ inputs.double()).square().sum(1)
    # All products have one sign: what is cut off adds up, half a bit of the sum for every sixteen columns.
    assert ((found.dense_sq - truth).abs() / truth).max() < 1.1e-5


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_any_layout(layout):
    weight, inputs, column_scale = testing.heavy_tailed(9, 77, 20)
    strided = testing.LAYOUTS[layout](weight.bfloat16())
    tokens = testing.LAYOUTS[layout](inputs.bfloat16())
    testing.check_row_quality("cuda", strided, testing.mixed_counts(weight), tokens, column_scale=column_scale)


@pytest.mark.usefixtures("capability")
def test_ties_inside_a_piece_of_eight_columns():
    weight = torch.ones(8, 100).bfloat16()
    inputs = torch.randn(100, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    counts = torch.tensor([0, 1, 3, 8, 13, 50, 99, 100], dtype=torch.int32)
    testing.check_row_quality("cuda", weight, counts, inputs)


@pytest.mark.usefixtures("capability")
def test_losing_every_weight_loses_the_dense_output_to_the_bit():
    weight, inputs, _ = testing.heavy_tailed(5, 30, 7)
    found = row_quality(weight.bfloat16(), 30, inputs.bfloat16(), backend="cuda")
    assert torch.equal(found.dropped_sq, found.dense_sq)
    assert torch.equal(found.cross, found.dense_sq)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_bad_inputs_are_named(bad):
    weight, inputs, _ = testing.heavy_tailed(5, 30, 7)
    inputs[29, 6] = bad
    with pytest.raises(ValueError, match=rf"^inputs: expected finite values, got {bad} at \[29, 6\]"):
        row_quality(weight.bfloat16(), 10, inputs.bfloat16(), backend="cuda")


def test_outputs_beyond_float32_are_an_error():
    weight, inputs = torch.full((3, 40), 3e38), torch.full((40, 2), 100.0)
    with pytest.raises(ValueError, match="expected outputs within float32"):
        row_quality(weight, 10, inputs, backend="cuda")
