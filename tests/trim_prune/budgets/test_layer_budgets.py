from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.budgets.layers import exact_counts


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(1, 10**9), st.floats(0, 1)), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_counts_sum_to_the_total_and_stay_within_their_limits(linears, share):
    sparsities, sizes, caps = zip(*linears, strict=True)
    limits = [int(cap * size) for cap, size in zip(caps, sizes, strict=True)]
    total = int(share * sum(limits))
    counts = exact_counts(sparsities, sizes, limits, total)
    assert sum(counts) == total
    assert all(0 <= count <= limit for count, limit in zip(counts, limits, strict=True))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=40))
def test_shares_that_meet_the_total_are_kept_within_one_weight(linears):
    sparsities, sizes = zip(*linears, strict=True)
    total = round(sum(s * n for s, n in linears))
    counts = exact_counts(sparsities, sizes, sizes, total)
    assert sum(counts) == total
    for count, sparsity, size in zip(counts, sparsities, sizes, strict=True):
        assert abs(count - sparsity * size) <= 1 + 1e-6


def test_the_largest_remainder_gets_the_missing_weight_and_ties_go_to_the_earlier():
    assert exact_counts([0.5, 0.75, 0.5], [3, 3, 3], [3, 3, 3], 5) == [2, 2, 1]


def test_what_a_limit_holds_back_goes_to_the_others():
    assert exact_counts([0.9, 0.5], [100, 100], [60, 100], 140) == [60, 80]
    assert exact_counts([-1.0, 0.5], [100, 100], [100, 100], 50) == [0, 50]


def test_only_differences_matter():
    assert exact_counts([0.1, 0.3], [100, 100], [100, 100], 100) == [40, 60]
    assert exact_counts([1.1, 1.3], [100, 100], [100, 100], 100) == [40, 60]


def test_differences_of_any_size_are_met_at_once():
    assert exact_counts([1e20, 0.0, 1e300], [10**9] * 3, [10**9] * 3, 15 * 10**8) == [5 * 10**8, 0, 10**9]
    assert exact_counts([1e20, 1e20 + 1e5], [10**9] * 2, [10**9] * 2, 15 * 10**8) == [5 * 10**8, 10**9]


def test_many_linears_at_their_limits_leave_the_rest_to_one():
    sizes, limits = [10, *[1000] * 200], [10, *[3] * 200]
    assert exact_counts([0.1, *[0.9] * 200], sizes, limits, 607) == [7, *[3] * 200]
    assert exact_counts([0.9, *[0.1] * 200], sizes, limits, 7) == [7, *[0] * 200]


@pytest.mark.parametrize("total", [0, 1, 6, 7])
def test_one_linear_gets_the_total_whatever_its_share(total):
    for sparsity in (-5.0, 0.0, 0.3, 1.0, 1e9):
        assert exact_counts([sparsity], [10], [7], total) == [total]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**9)), min_size=1, max_size=40))
def test_shares_that_are_whole_numbers_of_weights_are_met_exactly(linears):
    counts, sizes = [min(linear) for linear in linears], [size for _, size in linears]
    shares = [count / size for count, size in zip(counts, sizes, strict=True)]
    assert exact_counts(shares, sizes, sizes, sum(counts)) == counts


def test_limits_below_the_total_are_refused():
    with pytest.raises(ValueError, match="120 of 200 weights are to go, and at most 110 may"):
        exact_counts([0.5, 0.7], [100, 100], [60, 50], 120)


@pytest.mark.parametrize("sparsity", [float("inf"), float("nan")])
def test_a_share_that_is_no_number_is_refused(sparsity):
    with pytest.raises(ValueError, match="is not a number"):
        exact_counts([sparsity, 0.5], [10, 10], [10, 10], 10)
