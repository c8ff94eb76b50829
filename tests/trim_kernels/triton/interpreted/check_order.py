from __future__ import annotations

import pytest
import torch

from trim_kernels import row_order, testing
from trim_kernels.ops.row_order import triton as sorting


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize(
    ("name", "scoring"),
    [("ties", "magnitude"), ("ties", "column_scale"), ("subnormal", "column_scale"), ("3x7", "score")],
)
def test_orders_are_those_of_the_reference(name, dtype, scoring, matrix):
    weight, _, scores = matrix(name, dtype, scoring)
    testing.check_row_order("triton", weight[:2], **first_rows(scores, 2))


def first_rows(scores, rows):
    return {name: value[:rows] if value.dim() == 2 else value for name, value in scores.items()}


def test_a_row_in_blocks_keeps_its_order(matrix, monkeypatch):
    monkeypatch.setattr(sorting, "BLOCK", 32)
    weight, _, scores = matrix("ties", "bfloat16", "column_scale", "transposed")
    testing.check_row_order("triton", weight[:2], **scores)


@pytest.mark.parametrize(("zero_bits", "first"), [(0, 0), (13, 12), (16, 16)])
def test_an_even_number_of_digits_covers_the_key(zero_bits, first):
    assert sorting.first_bit(zero_bits) == first <= zero_bits
    assert (32 - first) // 2 % 2 == 0


def test_a_nan_is_named(device):
    weight = testing.nasty_matrix("3x7", torch.float32).to(device)
    weight[2, 6] = torch.nan
    with pytest.raises(ValueError, match=r"^weight: expected finite values, got nan at \[2, 6\]"):
        row_order(weight, backend="triton")
