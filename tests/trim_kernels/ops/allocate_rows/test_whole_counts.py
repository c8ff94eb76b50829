"""From shares to whole counts: the helpers behind both roundings."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import uniform_counts
from trim_kernels.ops.allocate_rows.rounding import apportion, row_cap, shift_to_sum, total_count


@pytest.mark.parametrize("rows", [0, 1, 3, 7])
@pytest.mark.parametrize("columns", [1, 5])
def test_uniform_counts_deal_one_by_one(rows, columns):
    for total in range(rows * columns + 1):
        expected = [0] * rows
        for weight in range(total):
            expected[weight % rows] += 1
        counts = uniform_counts(rows, columns, total)
        assert counts.dtype == torch.int32
        assert counts.tolist() == expected


@hypothesis.given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=30), cap=st.floats(0.01, 1), fullness=st.floats(0, 1)
)
def test_shifted_shares_have_the_sum_and_are_one_shift_apart(shares, cap, fullness):
    clipped = torch.tensor(shares, dtype=torch.float64).clamp(0, cap)
    target = fullness * cap * len(shares)
    shifted = shift_to_sum(clipped, cap, target)
    assert shifted.sum().item() == pytest.approx(target, abs=1e-9)
    assert shifted.min() >= 0
    assert shifted.max() <= cap
    inside = (shifted > 0) & (shifted < cap)
    moves = (shifted - clipped)[inside]
    assert moves.numel() == 0 or moves.max() - moves.min() <= 1e-12
    shift = moves.mean() if moves.numel() else None
    if shift is not None:
        assert (clipped[shifted == 0] + shift <= 1e-12).all()
        assert (clipped[shifted == cap] + shift >= cap - 1e-12).all()


@hypothesis.given(
    wanted=st.lists(st.floats(0, 20), min_size=1, max_size=30), cap=st.integers(1, 20), fullness=st.floats(0, 1)
)
def test_apportioned_counts_have_the_total_and_stay_within_a_row(wanted, cap, fullness):
    total = round(fullness * cap * len(wanted))
    counts = apportion(torch.tensor(wanted, dtype=torch.float64), total, cap)
    assert counts.dtype == torch.int32
    assert counts.sum() == total
    assert counts.min() >= 0
    assert counts.max() <= cap


def test_apportioned_remainders_go_to_the_largest_then_to_the_first():
    wanted = torch.tensor([1.5, 2.25, 0.75, 3.5], dtype=torch.float64)
    assert apportion(wanted, 8, 10).tolist() == [2, 2, 1, 3]
    assert apportion(wanted, 9, 10).tolist() == [2, 2, 1, 4]


def test_apportioned_whole_numbers_are_taken_as_they_are():
    assert apportion(torch.tensor([3.0, 0.0, 5.0], dtype=torch.float64), 8, 5).tolist() == [3, 0, 5]


@pytest.mark.parametrize(
    ("columns", "max_sparsity", "cap"), [(100, 0.29, 29), (100, 0.57, 57), (7, 0.95, 6), (3, 1.0, 3), (9, 0.0, 0)]
)
def test_the_cap_is_not_lost_to_the_last_bit_of_a_product(columns, max_sparsity, cap):
    assert row_cap(columns, max_sparsity) == cap


def test_the_total_is_rounded_to_the_nearest_weight():
    assert total_count(3, 7, 0.5) == 10
    assert total_count(96, 160, 0.7) == 10752


def test_uniform_counts_come_on_the_asked_device():
    assert uniform_counts(3, 4, 5, device="meta").device.type == "meta"
