"""The model of what several processes gain, where it can be told by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.ranks import CASES, LARGE
from benchmarks.scaling import Case, _nodes, operations, predicted, shares, volume
from trim_prune.team import OrderedSum
from trim_prune.team.groups import divided

GRAM = Case("gram", 32, 48, 16, 32, 64, 4, gram=True, solved=True, searched=0, kept=True)


@pytest.mark.parametrize("case", [*CASES.values(), *LARGE], ids=lambda case: case.name)
def test_one_process_moves_nothing_and_has_all_to_do(case):
    assert set(volume(case, 1).values()) == {0}
    assert set(shares(case, 1).values()) == {1.0}
    assert predicted({"forward": 2.0, "write": 1.0}, case, 1, 1, 3, 1e9) == {"forward": 2.0, "write": 1.0, "moved": 0.0}


@pytest.mark.parametrize("ranks", range(1, 9))
def test_the_sums_that_consecutive_groups_come_to(ranks):
    for groups in divided(8, ranks):
        sums = OrderedSum()
        for group in groups:
            sums.part(group, partial(torch.zeros, 1))
        sums.settle()
        assert _nodes(groups) == len(sums.nodes)


def test_what_two_ranks_move():
    found = volume(GRAM, 2)
    # Each sends half of its sum to the other, and gets half of the whole from it.
    assert found["statistics"] == 2 * 4 * (3 * 32**2 + 48**2)
    assert found["decisions"] == 4 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    size = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32
    assert found["weights"] == 4 * size + size // 8
    assert found["hidden states"] == 16 * 64 * 32 * 4
    assert found["search inputs"] == 0


def test_what_does_not_grow_with_the_text_is_little_beside_what_does():
    short, long = (replace(LARGE[1], sequences=count) for count in (32, 256))
    assert volume(short, 8) == volume(long, 8)
    assert operations(long)["forward"] == 8 * operations(short)["forward"]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_no_rank_has_less_than_an_equal_share(ranks):
    for case in (*CASES.values(), *LARGE):
        assert all(1 / ranks <= share <= 1 for share in shares(case, ranks).values())
    assert shares(GRAM, ranks)["forward"] == -(-8 // ranks) / 8


def test_more_ranks_than_cores_wait_for_one_another():
    alone = {"forward": 8.0, "write": 1.0, "load": 3.0}
    found = predicted(alone, GRAM, 4, 2, 1, 1e9)
    assert found["forward"] == 8.0 / 4 * 2
    assert (found["write"], found["load"]) == (1.0, 6.0)
    assert found["moved"] == sum(volume(GRAM, 4).values()) / 1e9
