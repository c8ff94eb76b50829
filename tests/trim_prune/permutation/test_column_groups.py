"""Which columns share a group: never worse than before, close to the best, and the same every time."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune import TrimPruneError, prune
from trim_prune.pattern import Keep
from trim_prune.permutation import find_order, groups
from trim_prune.permutation.groups import kept_sum


def draw(rows, columns, seed, kind="spread"):
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(rows, columns, generator=generator) * torch.rand(columns, generator=generator)
    if kind == "ties":
        score = (score * 4).round()
    return score * {"huge": 1e38, "tiny": 1e-38, "zeros": 0}.get(kind, 1)


@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.integers(0, 8),
    st.integers(1, 8),
    st.integers(0, 1000),
    st.sampled_from(["spread", "ties", "huge", "tiny", "zeros"]),
)
def test_an_order_keeps_no_less_and_leaves_the_tail(rows, columns, keep, of, seed, kind):
    keep, score = Keep(min(keep, of), of), draw(rows, columns, seed, kind)
    order = find_order(score, keep)
    whole = columns // of * of
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(columns))
    assert order[whole:].tolist() == list(range(whole, columns))
    assert kept_sum(score[:, order], keep) >= kept_sum(score, keep) * (1 - 1e-6)


@given(st.integers(1, 5), st.integers(2, 10), st.integers(1, 3), st.integers(0, 1000))
def test_an_order_keeps_no_less_than_columns_dealt_by_their_sums(rows, count, keep, seed):
    keep = Keep(keep, 4)
    score = draw(rows, 4 * count, seed)
    dealt = [[] for _ in range(count)]
    for place, column in enumerate(score.double().sum(0).argsort(descending=True, stable=True).tolist()):
        turn, group = divmod(place, count)
        dealt[count - 1 - group if turn % 2 else group].append(column)
    order = torch.tensor(dealt).flatten()
    assert kept_sum(score[:, find_order(score, keep)], keep) >= kept_sum(score[:, order], keep) * (1 - 1e-6)


@pytest.mark.parametrize(("columns", "keep"), [(6, Keep(1, 2)), (8, Keep(2, 4)), (8, Keep(1, 4)), (6, Keep(2, 3))])
def test_an_order_is_close_to_the_best_of_all(columns, keep):
    shares = []
    for seed in range(8):
        score = draw(12, columns, seed)
        best = max(kept_sum(score[:, list(order)], keep) for order in parted(tuple(range(columns)), keep.of))
        found, before = kept_sum(score[:, find_order(score, keep)], keep), kept_sum(score, keep)
        assert before <= found <= best * (1 + 1e-6)
        shares.append(found / best)
    assert min(shares) > 0.97


def parted(left, of):
    """Every way to part columns into groups, once."""
    if not left:
        yield ()
        return
    for others in combinations(left[1:], of - 1):
        group = (left[0], *others)
        for rest in parted(tuple(column for column in left if column not in group), of):
            yield group + rest


@pytest.mark.parametrize("keep", [Keep(1, 2), Keep(2, 4), Keep(1, 3)])
@pytest.mark.parametrize("place", [0, 1])
def test_columns_of_one_place_are_assigned_in_the_best_way(keep, place):
    score = draw(7, 5 * keep.of, 3)
    before = torch.randperm(5 * keep.of, generator=torch.Generator().manual_seed(0)).view(5, keep.of)
    found = groups._assigned(score, before, place, keep, torch.Generator().manual_seed(0))

    def total(order):
        changed = before.clone()
        changed[:, place] = before[list(order), place]
        return kept_sum(score[:, changed.flatten()], keep)

    best = max(map(total, permutations(range(5))))
    assert kept_sum(score[:, found.flatten()], keep) == pytest.approx(best, rel=1e-6)
    assert found.flatten().sort().values.tolist() == list(range(5 * keep.of))


def test_groups_may_be_improved_some_at_a_time(monkeypatch):
    monkeypatch.setattr(groups, "GROUPS_AT_ONCE", 3)
    keep, score = Keep(2, 4), draw(16, 4 * 10 + 3, 0)
    order = find_order(score, keep)
    assert order.sort().values.tolist() == list(range(43))
    assert kept_sum(score[:, order], keep) > kept_sum(score, keep)


def test_the_same_scores_have_the_same_order_whatever_their_scale():
    score, keep = draw(16, 64, 5), Keep(2, 8)
    order = find_order(score, keep)
    assert torch.equal(order, find_order(score, keep))
    assert torch.equal(order, find_order(score * 1024, keep))
    assert torch.equal(order, find_order(score.t().contiguous().t(), keep))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        find_order(torch.full((2, 8), torch.nan), Keep(2, 4))


def test_without_scipy_nothing_begins(monkeypatch):
    monkeypatch.setattr(groups, "find_spec", lambda name: None)
    with pytest.raises(TrimPruneError, match=r"permute needs scipy(.|\n)*pip install 'trim-kernels\[permute\]'"):
        prune("no/such/model", {"pattern": "keep 2 of 4", "score": "magnitude", "permute": True})
