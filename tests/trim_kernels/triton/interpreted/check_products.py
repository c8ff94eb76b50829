from __future__ import annotations

import pytest
import torch

from trim_kernels import row_quality, testing


@pytest.mark.parametrize("inputs_dtype", testing.DTYPES)
@pytest.mark.parametrize(
    ("name", "dtype", "scoring"),
    [
        ("1x1", "float32", "magnitude"),
        ("ties", "bfloat16", "magnitude"),
        ("ties", "float32", "column_scale"),
        ("17x129", "float16", "score"),
        ("17x129", "bfloat16", "column_scale"),
        ("subnormal", "bfloat16", "column_scale"),
    ],
)
def test_statistics_are_as_good_as_plain_torch(name, dtype, scoring, inputs_dtype, matrix, device):
    weight, counts, scores = matrix(name, dtype, scoring)
    inputs = torch.randn(weight.shape[1], 37, generator=torch.Generator().manual_seed(5))
    inputs = inputs.to(device, testing.DTYPES[inputs_dtype])
    testing.check_row_quality("triton", weight, counts, inputs, **scores)


def test_views_of_weight_and_inputs_will_do(matrix, device):
    weight, counts, scores = matrix("ties", "bfloat16", "column_scale", "column_strided")
    inputs = torch.randn(70, weight.shape[1], generator=torch.Generator().manual_seed(5)).to(device)[::2].t()
    testing.check_row_quality("triton", weight, counts, inputs, **scores)


def test_runs_are_equal_to_the_bit(device):
    weight, inputs, scale = (tensor.to(device) for tensor in testing.heavy_tailed(40, 200, 70))
    first, second = (row_quality(weight, 90, inputs, column_scale=scale, backend="triton") for _ in range(2))
    assert torch.equal(first.cross, second.cross)
    assert torch.equal(first.dropped_sq, second.dropped_sq)


def test_no_rows_have_empty_statistics(device):
    found = row_quality(torch.zeros(0, 9, device=device), 4, torch.ones(9, 3, device=device), backend="triton")
    assert found.cosine.shape == (0,)


def test_bad_values_and_overflows_are_named(device):
    weight, inputs, _ = (tensor.to(device) for tensor in testing.heavy_tailed(5, 30, 7))
    for tensor, name in ((weight, "weight"), (inputs, "inputs")):
        before, tensor[3, 4] = float(tensor[3, 4]), torch.inf
        with pytest.raises(ValueError, match=rf"^{name}: expected finite values, got inf at \[3, 4\]"):
            row_quality(weight, 10, inputs, backend="triton")
        tensor[3, 4] = before
    with pytest.raises(ValueError, match=r"^prune_count: expected values from 0 to 30, got 31 at row 0"):
        row_quality(weight, torch.full((5,), 31, dtype=torch.int32, device=device), inputs, backend="triton")
    weight[3, 4] = 3e38
    inputs[4] = 100
    for count in (0, 30):
        with pytest.raises(ValueError, match=r"^weight, inputs: expected outputs within float32, got an overflow"):
            row_quality(weight, count, inputs, backend="triton")
