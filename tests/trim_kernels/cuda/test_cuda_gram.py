"""gram_ on CUDA: the kernel for float32, and panels for halves, whose products plain torch makes here."""

from __future__ import annotations

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.gram import gram_, panels

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
SHAPES = [(1, 1), (1, 37), (9, 1), (0, 5), (8, 16), (17, 129), (3, 264), (131, 48), (300, 200), (1025, 7)]


def activations(tokens, columns, dtype=torch.float32):
    return testing.heavy_tailed(1, columns, max(tokens, 1))[1][:, :tokens].t().contiguous().to(dtype)


def start(columns):
    return torch.randn(columns, columns, generator=torch.Generator().manual_seed(columns))


def half_of(tokens):
    return torch.arange(tokens) % 3 != 1


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_as_exact_as_plain_float32(shape, dtype):
    x = activations(*shape, testing.DTYPES[dtype])
    testing.check_gram("cuda", start(shape[1]), x)
    testing.check_gram("cuda", start(shape[1]), x, half_of(shape[0]))


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_each_product_goes_to_its_place(dtype):
    # Powers of two have exact sums, and tell where each product belongs.
    columns = 140
    x = torch.zeros(2, columns)
    x[0], x[1] = torch.arange(columns) % 7, torch.arange(columns) // 7
    acc = gram_(torch.zeros(columns, columns), x.to(testing.DTYPES[dtype]), backend="cuda")
    assert torch.equal(acc, (x.t() @ x).tril())


@pytest.mark.parametrize("columns", [35, 48])
@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_x_and_acc_may_lie_in_memory_in_any_way(layout, columns):
    for dtype in testing.DTYPES.values():
        x = testing.LAYOUTS[layout](activations(17, columns, dtype))
        testing.check_gram("cuda", testing.LAYOUTS[layout](start(columns)), x)


@pytest.mark.parametrize("columns", [130, 132])
def test_rows_that_end_within_16_bytes(columns):
    for dtype in testing.DTYPES.values():
        wide = torch.full((40, 136), float("nan"), dtype=dtype)
        wide[:, :columns] = activations(40, columns, dtype)
        testing.check_gram("cuda", start(columns), wide[:, :columns])


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_a_token_that_does_not_count_may_hold_anything(dtype):
    x, mask = activations(150, 40, testing.DTYPES[dtype]), half_of(150)
    expected = gram_(start(40), x, token_mask=mask, backend="cuda")
    x[~mask] = float("nan")
    assert torch.equal(gram_(start(40), x, token_mask=mask, backend="cuda"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_nan_reaches_its_row_and_column_only(dtype):
    x = torch.ones(10, 4, dtype=dtype)
    x[7, 2] = float("nan")
    acc = gram_(torch.zeros(4, 4), x, backend="cuda")
    assert acc.isnan().int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]


def test_float16_products_beyond_float16_are_summed():
    x = torch.full((4, 2), 60_000.0, dtype=torch.float16)
    expected = float(x[0, 0]) ** 2 * 4
    assert gram_(torch.zeros(2, 2), x, backend="cuda").tolist() == [[expected, 0], [expected, expected]]


def test_x_may_be_a_view_of_the_accumulator():
    acc = start(40)
    expected = gram_(acc.clone(), acc[:7].clone(), backend="cuda")
    assert torch.equal(gram_(acc, acc[:7], backend="cuda"), expected)


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_panels_and_tokens_in_parts_give_the_same(layout, monkeypatch):
    monkeypatch.setattr(panels, "NARROWEST", 1)
    monkeypatch.setattr(panels, "TOKENS", 100)
    x = testing.LAYOUTS[layout](activations(300, 264, torch.bfloat16))
    acc = start(264)
    acc[torch.ones(264, 264, dtype=torch.bool).triu(1)] = float("nan")
    for mask in (None, half_of(300)):
        testing.check_gram("cuda", testing.LAYOUTS[layout](acc.nan_to_num(3.0)), x, mask)
        assert gram_(acc.clone(), x, token_mask=mask, backend="cuda").isnan().sum() == 264 * 263 / 2


def test_no_schedule_changes_a_bit(cuda_on_cpu):
    x, found = activations(150, 136), []
    for seed in range(3):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        found.append(gram_(start(136), x, backend="cuda"))
    assert all(torch.equal(acc, found[0]) for acc in found)
