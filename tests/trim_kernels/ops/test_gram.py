from __future__ import annotations

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.gram import gram_

nan = float("nan")
SHAPES = [(1, 1), (1, 37), (9, 1), (0, 5), (8, 16), (17, 129), (3, 193), (131, 48), (300, 200), (1025, 7), (20, 400)]


def activations(tokens, columns, dtype=torch.float32):
    return testing.heavy_tailed(1, columns, max(tokens, 1))[1][:, :tokens].t().contiguous().to(dtype)


def start(columns):
    return torch.randn(columns, columns, generator=torch.Generator().manual_seed(columns))


def half_of(tokens):
    return torch.arange(tokens) % 3 != 1


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_as_exact_as_plain_float32(shape, dtype, backend):
    x = activations(*shape, testing.DTYPES[dtype])
    for acc in (start(shape[1]), torch.zeros(shape[1], shape[1])):
        testing.check_gram(backend, acc, x)
        testing.check_gram(backend, acc, x, half_of(shape[0]))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_x_and_acc_may_lie_in_memory_in_any_way(layout, backend):
    for dtype in testing.DTYPES.values():
        x = testing.LAYOUTS[layout](activations(17, 35, dtype))
        testing.check_gram(backend, testing.LAYOUTS[layout](start(35)), x)


def test_a_token_may_be_repeated_by_a_view(backend):
    x = torch.tensor([[1.0, -2.0]]).expand(5, 2)
    assert gram_(torch.zeros(2, 2), x, backend=backend).tolist() == [[5, 0], [-10, 20]]


def test_the_accumulator_itself_is_added_to_and_returned(backend):
    acc = torch.tensor([[1.0, nan], [10.0, 100.0]])
    assert gram_(acc, torch.tensor([[3.0, 0.5]]), backend=backend) is acc
    assert acc.nan_to_num(nan=-7).tolist() == [[10.0, -7.0], [11.5, 100.25]]


def test_the_upper_triangle_keeps_its_bits(backend):
    acc = torch.full((300, 300), -0.0)
    gram_(acc, activations(5, 300), backend=backend)
    upper = torch.ones(300, 300, dtype=torch.bool).triu(1)
    assert torch.equal(acc[upper].view(torch.int32), torch.full((300, 300), -0.0)[upper].view(torch.int32))


def test_no_tokens_add_nothing(backend):
    acc = start(200)
    before = acc.clone()
    gram_(acc, torch.empty(0, 200), backend=backend)
    gram_(acc, torch.full((2, 200), nan), token_mask=torch.zeros(2, dtype=torch.bool), backend=backend)
    assert torch.equal(acc, before)


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("bad", [nan, float("inf")], ids=str)
def test_a_token_that_does_not_count_may_hold_anything(bad, dtype, backend):
    x = activations(300, 30, testing.DTYPES[dtype])
    mask = half_of(300)
    expected = gram_(start(30), x[mask], backend=backend)
    x[~mask] = bad
    assert torch.equal(gram_(start(30), x, token_mask=mask, backend=backend), expected)


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_a_nan_reaches_its_row_and_column_only(backend, dtype):
    x = torch.ones(10, 4).to(testing.DTYPES[dtype])
    x[7, 2] = nan
    acc = gram_(torch.zeros(4, 4), x, backend=backend)
    assert acc.isnan().int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]


def test_float16_products_beyond_float16_are_summed(backend):
    x = torch.full((4, 2), 60_000.0, dtype=torch.float16)
    assert gram_(torch.zeros(2, 2), x, backend=backend).tril().sum().item() == pytest.approx(
        3 * 4 * 60_000.0**2, rel=1e-3
    )


def test_a_large_accumulator_does_not_swallow_many_small_tokens(backend):
    x = torch.full((4096, 2), 2.0**-13)
    # Each block of fewer than 1000 tokens alone would vanish beside the 1.
    assert gram_(torch.ones(2, 2), x, backend=backend)[1].tolist() == [1 + 2.0**-14] * 2


def test_every_run_gives_the_same_bits(backend):
    x = activations(700, 210, torch.bfloat16)
    assert torch.equal(gram_(start(210), x, backend=backend), gram_(start(210), x, backend=backend))


@pytest.mark.usefixtures("instruction_set", "restored_threads")
def test_the_number_of_threads_does_not_change_a_bit():
    x, found = activations(700, 500, torch.bfloat16), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(gram_(start(500), x, backend="cpu"))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_x_may_require_grad(backend):
    x = activations(4, 3).requires_grad_()
    assert not gram_(torch.zeros(3, 3), x, backend=backend).requires_grad


def test_x_may_be_a_view_of_the_accumulator(backend):
    acc = start(40)
    expected = gram_(acc.clone(), acc[:7].clone(), backend=backend)
    assert torch.equal(gram_(acc, acc[:7], backend=backend), expected)
