"""row_order on the CUDA kernels: every nasty matrix, width, memory and schedule."""

from __future__ import annotations

import itertools

import pytest
import torch

from trim_kernels import cuda, row_order, testing
from trim_kernels.c_types import scored

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
WIDTHS = [1, 31, 33, 256, 1000, 5120, 5121, 13824, 14337, 29568, 29569]


def with_ties(rows, columns, levels=20):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns)).mul(levels).round()


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_nasty_matrices(matrix, dtype, case):
    for layout, scoring in itertools.product(testing.LAYOUTS, testing.SCORINGS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        with case(layout=layout, scoring=scoring):
            testing.check_row_order("cuda", weight, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("columns", WIDTHS)
def test_widths(columns):
    weight = with_ties(2, columns)
    testing.check_row_order("cuda", weight.half())
    scale = torch.rand(columns, generator=torch.Generator().manual_seed(1))
    testing.check_row_order("cuda", weight.bfloat16(), column_scale=scale)


def test_more_rows_than_blocks():
    testing.check_row_order("cuda", with_ties(11, 300))


@pytest.mark.parametrize("columns", [7, 100, 3000])
def test_rows_that_do_not_fit_in_shared_memory(columns, monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_SHARED_BYTES", "8000")
    assert cuda.size("row_order_scratch", 5, columns, 0) > 0
    testing.check_row_order("cuda", with_ties(5, columns).bfloat16())


def test_scratch_is_for_wide_rows_only():
    assert cuda.size("row_order_scratch", 5, 29_568, 0) == 0
    assert cuda.size("row_order_scratch", 2, 30_000, 0) == 2 * 2 * 8 * 30_000


@pytest.mark.parametrize("columns", [129, 2048, 30_001])
def test_columns_in_two_bytes(columns):
    weight = with_ties(3, columns)
    order = torch.empty(weight.shape, dtype=torch.int16)
    scratch = torch.empty(cuda.size("row_order_scratch", 3, columns, 0), dtype=torch.uint8)
    cuda.call("row_order", weight.device, scored(weight, None, None), order, 2, scratch)
    assert torch.equal(order.int() & 0xFFFF, row_order(weight, backend="reference"))


@pytest.mark.parametrize("shared_bytes", [8000, 232_448], ids=["global memory", "shared memory"])
def test_any_schedule(shared_bytes, monkeypatch, cuda_on_cpu):
    monkeypatch.setenv("TRIM_SHIM_SHARED_BYTES", str(shared_bytes))
    weight = with_ties(2, 1500, levels=3).half()
    for seed in range(6):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        testing.check_row_order("cuda", weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_bad_weight_is_named(bad):
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    weight[16, 128] = bad
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got {bad} at \[16, 128\]"):
        row_order(weight, column_scale=torch.zeros(129), backend="cuda")


def test_without_checks_bad_values_do_no_harm_to_other_rows():
    weight = testing.nasty_matrix("17x129", torch.float32)
    expected = row_order(weight, backend="reference")
    weight[3, 5] = float("nan")
    order = row_order(weight, check_values=False, backend="cuda")
    good = [row for row in range(17) if row != 3]
    assert torch.equal(order[good], expected[good])
