"""Sums over groups have the same bits whoever made which part of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.team import OrderedSum
from trim_prune.team.groups import divided


def leaves(groups):
    generator = torch.Generator().manual_seed(len(groups))
    return {group: torch.randn(50, generator=generator) * 10.0 ** (group % 5) for group in groups}


def summed(values):
    sums = OrderedSum()
    for group, value in values.items():
        for part in value / 3, value / 7:
            sums.part(group, partial(torch.zeros, 50)).add_(part)
    return sums


@given(st.sets(st.integers(0, 7), min_size=1), st.integers(1, 8))
def test_any_ranks_make_the_bits_of_one(present, ranks):
    values = leaves(sorted(present))
    nodes = {}
    for share in divided(8, ranks):
        theirs = summed({group: value for group, value in values.items() if group in share})
        theirs.settle()
        nodes |= theirs.nodes
    assert torch.equal(OrderedSum(nodes).total(), summed(values).total())


@given(st.sets(st.integers(0, 20), min_size=1))
def test_the_sum_is_that_of_all_groups(present):
    values = {group: torch.full((50,), 21.0 * 2**group) for group in sorted(present)}
    # 1/3 + 1/7 of 21: whole numbers, of which no sum loses any.
    assert summed(values).total().tolist() == [10.0 * sum(2**group for group in present)] * 50


def test_the_order_of_eight_is_that_of_a_tree():
    a, b, c, d, e, f, g, h = (value / 3 + value / 7 for value in leaves(range(8)).values())
    expected = ((a + b) + (c + d)) + ((e + f) + (g + h))
    assert torch.equal(summed(leaves(range(8))).total(), expected)
    assert not torch.equal(sum([b, c, d, e, f, g, h], start=a), expected)


def test_beside_the_group_at_hand_three_sums_are_held():
    sums = OrderedSum()
    held = []
    for group in range(8):
        sums.part(group, partial(torch.zeros, 1))
        held.append(len(sums.nodes) - 1)
    assert held == [0, 1, 1, 2, 1, 2, 2, 3]


def test_one_group_is_what_was_added_to_it():
    sums = OrderedSum()
    part = sums.part(0, partial(torch.zeros, 3))
    assert sums.part(0, pytest.fail) is part
    assert sums.total() is part
    assert OrderedSum().total() is None
