"""optimal_counts against dynamic programming over all counts, which is exact for curves of any form."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import optimal_counts
from trim_kernels.ops.row_error_curve import optimal_counts as module


def errors(curve, counts, first_count):
    return curve.double().gather(1, counts.long()[:, None] - first_count).sum().item()


def least(curve, total):
    """The least sum of errors over counts from 0 that sum to ``total``."""
    best = {0: 0.0}
    for row in curve.double().tolist():
        longer = {}
        for taken, error in best.items():
            for count, value in enumerate(row):
                longer[taken + count] = min(longer.get(taken + count, torch.inf), error + value)
        best = longer
    return best[total]


def distance_from_hull(row):
    """The greatest distance of a curve from its convex hull."""
    values = row.double().tolist()
    hull = [
        min(
            [values[k]]
            + [
                values[i] + (values[j] - values[i]) * (k - i) / (j - i)
                for i in range(k)
                for j in range(k + 1, len(values))
            ]
        )
        for k in range(len(values))
    ]
    return max(value - below for value, below in zip(values, hull, strict=True))


def convex(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, length, generator=generator).sort(dim=1).values.cumsum(1)


def rough(rows, length, seed=0):
    """Curves that rise with many jumps, flat pieces and falls."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 4, (rows, length), generator=generator).float().cumsum(1)


@pytest.mark.parametrize("seed", range(5))
def test_convex_curves_are_solved_exactly_for_every_total(seed):
    curve = convex(5, 7, seed)
    for total in range(5 * 3, 5 * 9 + 1):
        counts = optimal_counts(curve, 3, total)
        assert counts.dtype == torch.int32
        assert counts.sum() == total
        assert errors(curve, counts, 3) == pytest.approx(least(curve, total - 15), rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_other_curves_are_solved_but_for_what_one_row_jumps_over(seed):
    curve = rough(5, 8, seed)
    allowed = max(map(distance_from_hull, curve)) + 1e-9
    for total in range(5 * 7 + 1):
        counts = optimal_counts(curve, 0, total)
        assert counts.sum() == total
        assert least(curve, total) <= errors(curve, counts, 0) <= least(curve, total) + allowed


@pytest.mark.parametrize("seed", range(8))
def test_a_total_that_a_multiplier_reaches_is_solved_exactly(seed):
    curve = rough(6, 9, seed)
    places = torch.arange(9.0)
    for multiplier in (0.15, 0.45, 0.95, 1.35, 1.85):
        total = int((curve - multiplier * places).argmin(1).sum())
        assert errors(curve, optimal_counts(curve, 0, total), 0) == least(curve, total)


@hypothesis.given(
    values=st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4)
        | st.just([2.0] * 4),
        min_size=1,
        max_size=8,
    ),
    first_count=st.integers(0, 100),
    share=st.floats(0, 1),
)
def test_any_total_is_met_within_the_band(values, first_count, share):
    curve = torch.tensor(values)
    total = len(values) * first_count + round(share * 3 * len(values))
    counts = optimal_counts(curve, first_count, total)
    assert counts.sum() == total
    assert counts.min() >= first_count
    assert counts.max() <= first_count + 3


def test_equal_concave_rows_take_all_or_nothing_but_one():
    curve = torch.arange(9.0).sqrt().expand(6, 9)
    assert optimal_counts(curve, 0, 3 * 8 + 5).sort().values.tolist() == [0, 0, 5, 8, 8, 8]


@pytest.mark.parametrize("total", [0, 1, 17, 40])
def test_flat_curves_meet_the_total(total):
    counts = optimal_counts(torch.ones(5, 9), 0, total)
    assert counts.sum() == total
    assert 0 <= counts.min() <= counts.max() <= 8


def test_one_row_takes_the_total():
    assert optimal_counts(rough(1, 30), 7, 19).tolist() == [19]


def test_a_band_of_one_count_leaves_no_choice():
    assert optimal_counts(torch.rand(4, 1), 6, 24).tolist() == [6] * 4


def test_no_rows_have_no_counts():
    counts = optimal_counts(torch.zeros(0, 5), 3, 0)
    assert (counts.dtype, counts.tolist()) == (torch.int32, [])


def test_tiles_and_repetition_change_nothing(monkeypatch):
    curve = rough(40, 50, 3)
    whole = [optimal_counts(curve, 2, total) for total in (500, 1001, 1500)]
    monkeypatch.setattr(module, "TILE_VALUES", 120)
    for expected, total in zip(whole, (500, 1001, 1500), strict=True):
        assert torch.equal(optimal_counts(curve, 2, total), expected)


@pytest.mark.parametrize(
    ("curve", "first_count", "total", "message"),
    [
        (torch.ones(3), 0, 0, r"curve: expected a float32 matrix \[R, L\] .*, got float32 \[3\] on cpu"),
        (torch.ones(3, 0), 0, 0, r"curve: .* at least one column, got float32 \[3, 0\] on cpu"),
        (torch.ones(3, 4).int(), 0, 0, r"curve: expected .*, got int32 \[3, 4\] on cpu"),
        (torch.full((1, 2), torch.nan), 0, 1, r"curve: expected finite values, got nan at \[0, 0\] .*"),
        (torch.ones(3, 4), -1, 0, "first_count: expected an int, 0 or more, got int -1"),
        (torch.ones(3, 4), 2, 5, r"total: expected an int from 6 to 15 \(3 rows of 2 to 5\), got int 5"),
        (torch.ones(3, 4), 2, 16, r"total: expected an int from 6 to 15 \(3 rows of 2 to 5\), got int 16"),
        (torch.ones(3, 4), 2, 7.0, "total: .*, got float 7.0"),
    ],
)
def test_wrong_arguments(curve, first_count, total, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        optimal_counts(curve, first_count, total)
