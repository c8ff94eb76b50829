"""Statistics that several ranks have collected, each on its own sequences, made one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..models.discover import Linear
from ..team import OrderedSum, Team
from .statistics import SUMS, Collector, LinearStatistics, shared_at_times, sum_shape


def join(collector: Collector, team: Team) -> None:
    """What the other ranks have collected is here too, as if this one had seen all sequences, in their order.

    So linears come in the order in which one process would first have met them. What two linears share on one rank they
    have to share on all.
    """
    if team.size == 1:
        return
    number = {linear: index for index, linear in enumerate(collector.linears)}
    sharing: dict[int, tuple[LinearStatistics, list[int]]] = {}
    for linear, statistics in collector.found.items():
        sharing.setdefault(id(statistics), (statistics, []))[1].append(number[linear])
    mine = {tuple(which): statistics for statistics, which in sharing.values()}
    found = [[which, _facts(statistics)] for which, statistics in mine.items()]
    told = team.exchange({"sequences": collector.sequences, "found": found})
    by_rank = [{tuple(which): facts for which, facts in theirs["found"]} for theirs in told]
    collector.sequences, collector.found = sum(theirs["sequences"] for theirs in told), {}
    for which in dict.fromkeys(which for theirs in by_rank for which in theirs):
        linears = [collector.linears[index] for index in which]
        whole = _joined(mine.get(which), [theirs.get(which) for theirs in by_rank], linears[0], team)
        for linear in linears:
            if linear in collector.found:
                raise shared_at_times(linear)
            collector.found[linear] = whole


def _facts(statistics: LinearStatistics) -> dict[str, Any]:
    """What other ranks have to know before they get the rest."""
    for sums in statistics.sums.values():
        sums.settle()
    return {
        "sequences": statistics.sequences,
        "tokens": statistics.tokens,
        "sums": {need: list(sums.nodes) for need, sums in statistics.sums.items()},
    }


def _joined(
    own: LinearStatistics | None, facts: Sequence[dict[str, Any] | None], linear: Linear, team: Team
) -> LinearStatistics:
    """The statistics of all ranks for one input; None: a rank has not met it."""
    known, whole, mine = [each for each in facts if each is not None], LinearStatistics(), own or LinearStatistics()
    whole.sequences, whole.tokens = (sum(each[name] for each in known) for name in ("sequences", "tokens"))
    device, columns = linear.weight.device, linear.shape[1]
    for need in (need for need in SUMS if any(need in each["sums"] for each in known)):
        nodes = [[] if each is None else each["sums"].get(need, []) for each in facts]
        sums, shape = mine.sums.get(need, OrderedSum()), sum_shape(need, columns)
        whole.sums[need] = team.total(sums, nodes, shape, SUMS[need], device)
    whole.inputs = team.everyones([torch.cat(mine.inputs)] if mine.inputs else [])
    return whole
