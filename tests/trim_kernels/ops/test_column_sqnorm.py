from __future__ import annotations

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.column_sqnorm import column_sqnorm_

nan = float("nan")
ACCUMULATORS = {"float32": torch.float32, "float64": torch.float64}
SHAPES = [(1, 1), (1, 37), (9, 1), (0, 5), (8, 16), (17, 129), (3, 2049), (1025, 7)]


def activations(tokens, columns, dtype=torch.float32):
    return testing.heavy_tailed(1, columns, max(tokens, 1))[1][:, :tokens].t().contiguous().to(dtype)


def start(columns, dtype):
    return torch.linspace(0, 3, columns, dtype=torch.float64).to(dtype)


def half_of(tokens):
    return torch.arange(tokens) % 3 != 1


@pytest.mark.parametrize("acc_dtype", ACCUMULATORS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_squares_are_right(shape, dtype, acc_dtype, backend):
    x = activations(*shape, testing.DTYPES[dtype])
    acc = start(shape[1], ACCUMULATORS[acc_dtype])
    testing.check_column_sqnorm(backend, acc, x)
    testing.check_column_sqnorm(backend, acc, x, half_of(shape[0]))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_x_may_lie_in_memory_in_any_way(layout, backend):
    for dtype in testing.DTYPES.values():
        testing.check_column_sqnorm(
            backend, start(129, torch.float64), testing.LAYOUTS[layout](activations(17, 129, dtype))
        )


def test_a_token_may_be_repeated_by_a_view(backend):
    x = torch.tensor([[1.0, -2.0, 3.0]]).expand(5, 3)
    assert column_sqnorm_(torch.zeros(3), x, backend=backend).tolist() == [5, 20, 45]


@pytest.mark.parametrize("acc_dtype", ACCUMULATORS)
def test_the_accumulator_may_be_a_view(acc_dtype, backend):
    rows = torch.zeros(3, 40, dtype=ACCUMULATORS[acc_dtype])
    for acc in (rows[1], rows[1, ::2], rows.t()[5]):
        testing.check_column_sqnorm(backend, acc, activations(11, len(acc)))


def test_the_mask_may_be_a_view(backend):
    x, mask = activations(9, 5), torch.arange(18) % 4 == 0
    expected = column_sqnorm_(torch.zeros(5), x[mask[::2]], backend="reference")
    assert torch.equal(column_sqnorm_(torch.zeros(5), x, token_mask=mask[::2], backend=backend), expected)


def test_the_accumulator_itself_is_added_to_and_returned(backend):
    acc = torch.tensor([1.0, 10.0], dtype=torch.float64)
    assert column_sqnorm_(acc, torch.tensor([[3.0, 0.5]]), backend=backend) is acc
    assert acc.tolist() == [10.0, 10.25]


def test_no_tokens_add_nothing(backend):
    acc = torch.tensor([-0.0, 1.0, nan])
    column_sqnorm_(acc, torch.empty(0, 3), backend=backend)
    column_sqnorm_(acc, torch.full((2, 3), nan), token_mask=torch.zeros(2, dtype=torch.bool), backend=backend)
    assert torch.equal(acc.nan_to_num(nan=-7), torch.tensor([0.0, 1.0, -7.0]))


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("bad", [nan, float("inf")], ids=str)
def test_a_token_that_does_not_count_may_hold_anything(bad, dtype, backend):
    x = activations(19, 6, testing.DTYPES[dtype])
    mask = half_of(19)
    expected = column_sqnorm_(start(6, torch.float64), x[mask], backend=backend)
    x[~mask] = bad
    assert torch.equal(column_sqnorm_(start(6, torch.float64), x, token_mask=mask, backend=backend), expected)


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_a_nan_reaches_its_column_only(backend, dtype):
    x = torch.ones(10, 3).to(testing.DTYPES[dtype])
    x[7, 1] = nan
    assert torch.equal(
        column_sqnorm_(torch.zeros(3), x, backend=backend).nan_to_num(nan=-7), torch.tensor([10.0, -7.0, 10.0])
    )


def test_squares_beyond_the_dtype_of_x_are_summed(backend):
    huge = torch.full((4, 2), 60_000.0, dtype=torch.float16)
    assert column_sqnorm_(torch.zeros(2), huge, backend=backend).tolist() == [4 * float(huge[0, 0]) ** 2] * 2
    x = torch.full((4, 2), 1e38)
    acc = column_sqnorm_(torch.zeros(2, dtype=torch.float64), x, backend=backend)
    assert acc.tolist() == [4 * float(x[0, 0]) ** 2] * 2


def test_subnormal_values_count(backend):
    x = torch.full((4, 2), 2.0**-140)
    assert column_sqnorm_(torch.zeros(2, dtype=torch.float64), x, backend=backend).tolist() == [2.0**-278] * 2


def test_a_float32_accumulator_is_rounded_once(backend):
    x = torch.full((1000, 1), 2.0**-13)
    # Each square alone would vanish beside the 1.
    acc = column_sqnorm_(torch.ones(1), x, backend=backend)
    assert acc.item() == pytest.approx(1 + 1000 * 2.0**-26, abs=2.0**-24)
    assert acc.item() > 1


def test_every_run_gives_the_same_bits(backend):
    x = activations(1000, 33)
    once = column_sqnorm_(torch.zeros(33, dtype=torch.float64), x, backend=backend)
    assert torch.equal(column_sqnorm_(torch.zeros(33, dtype=torch.float64), x, backend=backend), once)


@pytest.mark.usefixtures("restored_threads")
def test_threads_and_instruction_sets_do_not_change_a_bit(instruction_set):
    x = activations(300, 1100)
    # Squares of float32 are exact in float64, and the native backend adds them in the order of the tokens.
    expected = torch.zeros(1100, dtype=torch.float64)
    for token in x.double():
        expected += token.square()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(column_sqnorm_(torch.zeros(1100, dtype=torch.float64), x, backend="cpu"), expected)


def test_x_may_be_a_view_of_the_accumulator(backend):
    acc = torch.arange(12.0)
    expected = column_sqnorm_(acc[:3].clone(), acc.view(4, 3).clone(), backend=backend)
    assert torch.equal(column_sqnorm_(acc[:3], acc.view(4, 3), backend=backend), expected)


def test_x_may_require_grad(backend):
    x = activations(4, 3).requires_grad_()
    assert not column_sqnorm_(torch.zeros(3), x, backend=backend).requires_grad
