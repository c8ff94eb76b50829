from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.budgets.layers import apportion


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=40))
def test_counts_sum_to_the_total_and_stay_within_one_of_their_share(linears):
    sparsities, sizes = zip(*linears, strict=True)
    total = round(sum(s * n for s, n in linears))
    counts = apportion(sparsities, sizes, total)
    assert sum(counts) == total
    for count, sparsity, size in zip(counts, sparsities, sizes, strict=True):
        assert 0 <= count <= size
        assert abs(count - sparsity * size) <= 1 + 1e-6


def test_the_largest_remainder_gets_the_missing_weight_and_ties_go_to_the_earlier():
    assert apportion([0.5, 0.75, 0.5], [3, 3, 3], 5) == [2, 2, 1]


@pytest.mark.parametrize("total", [1, 9], ids=["too small", "too large"])
def test_a_total_far_from_the_shares_is_refused(total):
    with pytest.raises(ValueError, match="not within rounding"):
        apportion([0.5, 0.5], [10, 2], total)


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(sparsity):
    with pytest.raises(ValueError, match="not a share from 0 to 1"):
        apportion([sparsity, 0.5], [10, 10], 10)
