"""How work is divided: completely, evenly, and not by the number of processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune import TrimPruneError
from trim_prune.team import ALONE, Team, groups_of, row_parts
from trim_prune.team.groups import divided
from trim_prune.team.ranks import dealt


class Some(Team):
    """One of several, as far as it asks nothing of the others."""

    def __init__(self, size, rank):
        self.size, self.rank = size, rank


@given(st.integers(0, 300), st.integers(1, 20))
def test_shares_are_consecutive_and_as_even_as_can_be(count, shares):
    found = divided(count, shares)
    assert [index for share in found for index in share] == list(range(count))
    sizes = [len(share) for share in found]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 300))
def test_groups_have_four_sequences_at_least_and_are_eight_at_most(sequences):
    groups = groups_of(sequences)
    assert sum(map(len, groups)) == sequences
    assert len(groups) <= 8
    assert len(groups) == 1 or min(map(len, groups)) >= 3
    assert sequences < 32 or len(groups) == 8


@given(st.integers(1, 300), st.integers(1, 8))
def test_every_group_belongs_to_one_rank(sequences, size):
    groups = [group for rank in range(size) for group in Some(size, rank).groups(sequences)]
    assert groups == ALONE.groups(sequences) == list(enumerate(groups_of(sequences)))


@given(st.integers(0, 40_000))
def test_parts_of_rows_begin_at_multiples_of_sixteen_and_are_not_small(rows):
    parts = row_parts(rows)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert all(part.start % 16 == 0 for part in parts)
    assert len(parts) <= 8
    assert rows >= 2048 or len(parts) == 1
    assert len(parts) == 1 or min(part.stop - part.start for part in parts[:-1]) >= 1024


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 8))
def test_the_costliest_part_is_dealt_to_the_one_with_the_least_to_do(costs, shares):
    owners = dealt(costs, shares)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == share) for share in range(shares)]
    assert len(owners) == len(costs)
    # Graham's bound for this order.
    assert max(loads, default=0) <= max(sum(costs) / shares + max(costs, default=0) * (1 - 1 / shares), 0)


def test_more_ranks_than_groups_are_refused():
    Some(8, 0).require(32)
    with pytest.raises(TrimPruneError, match=r"more ranks than groups(.|\n)*at most 2 for 8 sequences(.|\n)*3 ranks"):
        Some(3, 0).require(8)


def test_one_process_joins_its_parts():
    values = torch.arange(3000.0)
    assert torch.equal(ALONE.by_rows(3000, lambda rows: values[rows]), values)
    assert torch.equal(ALONE.by_rows(30, lambda rows: values[:30][rows]), values[:30])
