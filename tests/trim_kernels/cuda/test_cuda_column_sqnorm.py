"""column_sqnorm_ on the CUDA kernels: shapes, layouts, masks and schedules."""

from __future__ import annotations

import pytest
import torch

from trim_kernels import cuda, testing
from trim_kernels.ops.column_sqnorm import column_sqnorm_

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
ACCUMULATORS = {"float32": torch.float32, "float64": torch.float64}
SHAPES = [(1, 1), (1, 37), (9, 1), (0, 5), (8, 16), (17, 129), (3, 2049), (1025, 7), (300, 512)]


def activations(tokens, columns, dtype=torch.float32):
    return testing.heavy_tailed(1, columns, max(tokens, 1))[1][:, :tokens].t().contiguous().to(dtype)


def start(columns, dtype=torch.float64):
    return torch.linspace(0, 3, columns, dtype=torch.float64).to(dtype)


def half_of(tokens):
    return torch.arange(tokens) % 3 != 1


@pytest.mark.parametrize("acc_dtype", ACCUMULATORS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_squares_are_right(shape, dtype, acc_dtype):
    x = activations(*shape, testing.DTYPES[dtype])
    acc = start(shape[1], ACCUMULATORS[acc_dtype])
    testing.check_column_sqnorm("cuda", acc, x)
    testing.check_column_sqnorm("cuda", acc, x, half_of(shape[0]))


@pytest.mark.parametrize("columns", [35, 48])
@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_x_may_lie_in_memory_in_any_way(layout, columns):
    for dtype in testing.DTYPES.values():
        testing.check_column_sqnorm("cuda", start(columns), testing.LAYOUTS[layout](activations(17, columns, dtype)))


def test_the_accumulator_may_be_a_view():
    rows = torch.zeros(3, 40)
    for acc in (rows[1], rows[1, ::2], rows.t()[5]):
        testing.check_column_sqnorm("cuda", acc, activations(11, len(acc)))
    acc = torch.arange(12.0)
    expected = column_sqnorm_(acc[:3].clone(), acc.view(4, 3).clone(), backend="reference")
    assert torch.equal(column_sqnorm_(acc[:3], acc.view(4, 3), backend="cuda"), expected)


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("columns", [33, 264])
def test_a_token_that_does_not_count_is_not_read(columns, dtype):
    x, mask = activations(190, columns, testing.DTYPES[dtype]), half_of(190)
    masked = x.clone()
    masked[~mask] = float("nan")
    testing.check_column_sqnorm("cuda", start(columns), x, mask)
    expected = column_sqnorm_(start(columns), x, token_mask=mask, backend="cuda")
    assert torch.equal(column_sqnorm_(start(columns), masked, token_mask=mask, backend="cuda"), expected)


def test_a_nan_reaches_its_column_only():
    x = torch.ones(10, 3)
    x[7, 1] = float("nan")
    acc = column_sqnorm_(torch.zeros(3), x, backend="cuda")
    assert acc.nan_to_num(nan=-7).tolist() == [10, -7, 10]


def test_a_float32_accumulator_is_rounded_once():
    # Each square alone would vanish beside the 1.
    acc = column_sqnorm_(torch.ones(1), torch.full((1000, 1), 2.0**-13), backend="cuda")
    assert acc.item() == torch.tensor(1 + 1000 * 2.0**-26).item()


def test_no_schedule_changes_a_bit(cuda_on_cpu):
    x, found = activations(700, 264), []
    for seed in range(4):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        found.append(column_sqnorm_(start(264), x, backend="cuda"))
    assert all(torch.equal(acc, found[0]) for acc in found)


@pytest.mark.parametrize(
    ("shape", "splits"), [((0, 5), 1), ((128, 5), 1), ((129, 5), 2), ((2048, 5120), 16), ((10**6, 5120), 105)], ids=str
)
def test_tokens_are_split_as_the_shape_says(shape, splits):
    assert cuda.size("column_sqnorm_splits", *shape) == splits
