from __future__ import annotations

import pytest
import torch

from trim_kernels import prune_rows_, row_mask, row_threshold, testing
from trim_kernels.ops.row_threshold import triton as selection

CASES = [
    *((name, dtype, "column_scale") for name in ("3x7", "subnormal") for dtype in testing.DTYPES),
    *((name, dtype, "magnitude") for name in ("signed_zeros", "tiny", "huge") for dtype in testing.DTYPES),
    *((name, "bfloat16", scoring) for name in ("1x1", "one_column", "ties") for scoring in testing.SCORINGS),
    ("17x129", "float32", "column_scale"),
    ("no_rows", "float32", "column_scale"),
    ("all_equal", "float16", "score"),
]
LAYOUTS_AND_DTYPES = [
    *(("bfloat16", layout) for layout in testing.LAYOUTS),
    ("float32", "contiguous"),
    ("float16", "column_strided"),
]


def read_again_and_again(monkeypatch):
    """As if the registers held no row."""
    monkeypatch.setattr(selection, "WIDEST_IN_REGISTERS", 0)
    monkeypatch.setattr(selection, "WIDE_BLOCK", 64)
    monkeypatch.setattr(selection, "APPLY_BLOCK", 64)


@pytest.fixture(params=["registers", "again and again"])
def read(request, monkeypatch):
    """How often a row is read: once, or as a row that is too wide for the registers."""
    if request.param != "registers":
        read_again_and_again(monkeypatch)


@pytest.mark.parametrize(("name", "dtype", "scoring"), CASES)
def test_thresholds_are_those_of_the_reference(name, dtype, scoring, matrix):
    weight, counts, scores = matrix(name, dtype, scoring)
    testing.check_row_threshold("triton", weight, counts, **scores)


@pytest.mark.parametrize(
    ("name", "dtype", "scoring"),
    [("ties", "bfloat16", "column_scale"), ("3x7", "float32", "score"), ("tiny", "float16", "magnitude")],
)
def test_thresholds_of_wide_rows_are_those_of_the_reference(name, dtype, scoring, matrix, monkeypatch):
    read_again_and_again(monkeypatch)
    weight, counts, scores = matrix(name, dtype, scoring)
    last = {key: value[-3:] if value.dim() == 2 else value for key, value in scores.items()}
    testing.check_row_threshold("triton", weight[-3:], counts[-3:], **last)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_few_long_rows_are_those_of_the_reference(dtype, device):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, selection.LONG_COLUMNS + 3, generator=generator).mul(8).round()
    weight = weight.to(device, testing.DTYPES[dtype])
    scale = torch.rand(weight.shape[1], generator=generator).to(device)
    counts = torch.tensor([weight.shape[1] // 3, weight.shape[1]], dtype=torch.int32, device=device)
    for check in (testing.check_row_threshold, testing.check_row_mask, testing.check_prune_rows):
        check("triton", weight, counts, column_scale=scale)
    beyond = torch.tensor([-1, weight.shape[1] + 1], dtype=torch.int32, device=device)
    mask = row_mask(weight, beyond, check_values=False, backend="triton")
    assert [bool(row.any()) for row in mask] == [True, False]


@pytest.mark.parametrize(("dtype", "layout"), LAYOUTS_AND_DTYPES)
def test_masks_and_pruned_rows_are_those_of_the_reference(dtype, layout, matrix, read):
    weight, counts, scores = matrix("3x7", dtype, "column_scale", layout)
    testing.check_row_mask("triton", weight, counts, **scores)
    testing.check_prune_rows("triton", weight, counts, **scores)
    testing.check_prune_rows("triton", weight, counts, **scores, check_values=False)


def test_wide_rows_are_masked_block_by_block(matrix, read):
    weight, _, scores = matrix("ties", "bfloat16", "magnitude")
    testing.check_row_mask("triton", weight[:2], 60, **scores)
    testing.check_prune_rows("triton", weight[:2], 60, **scores)


def test_the_widest_rows_are_read_twice_for_their_result(matrix, monkeypatch):
    monkeypatch.setattr(selection, "select_chunk", lambda block: 64)
    weight, counts, scores = matrix("ties", "bfloat16", "column_scale")
    testing.check_row_mask("triton", weight, counts, **scores)
    testing.check_prune_rows("triton", weight, counts, **scores, check_values=False)


@pytest.mark.parametrize("argument", ["weight", "column_scale", "score", "prune_count"])
def test_bad_values_are_named_and_nothing_changes(argument, device, read):
    weight = testing.nasty_matrix("5x8", torch.float32).to(device)
    counts = testing.mixed_counts(weight).to(device)
    scores = {} if argument in ("weight", "prune_count") else testing.SCORINGS[argument](weight.cpu())
    scores = {name: value.to(device) for name, value in scores.items()}
    bad = {"weight": torch.nan, "column_scale": -1.0, "score": torch.inf, "prune_count": 9}[argument]
    {"weight": weight, "prune_count": counts, **scores}[argument].view(-1)[-1] = bad
    before = weight.clone()
    for call in (row_threshold, row_mask, prune_rows_):
        with pytest.raises(ValueError, match=rf"^{argument}: expected .* got (nan|inf|-1.0|9) at"):
            call(weight, counts, **scores, backend="triton")
    assert torch.equal(weight.nan_to_num(7), before.nan_to_num(7))


def test_bad_values_that_nobody_looks_for_do_no_harm(device, read):
    weight = testing.nasty_matrix("3x7", torch.float32, "row_strided").to(device)
    weight[1, 3], weight[2, 0] = torch.nan, torch.inf
    counts = torch.tensor([-5, 4, 2_000_000_000], dtype=torch.int32, device=device)
    mask = row_mask(weight, counts, check_values=False, backend="triton")
    assert mask[0].all()
    assert not mask[2].any()


def test_a_scale_that_is_a_row_of_the_weight_is_read_before_it_is_pruned(device):
    weight = testing.nasty_matrix("5x8", torch.float32).abs().to(device)
    expected = prune_rows_(weight.clone(), 5, column_scale=weight[0].clone(), backend="reference")
    for check_values in (True, False):
        got = weight.clone()
        prune_rows_(got, 5, column_scale=got[0], check_values=check_values, backend="triton")
        assert torch.equal(got, expected)
