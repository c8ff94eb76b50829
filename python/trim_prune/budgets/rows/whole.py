"""Whole rows: all rows of a linear compete, and each loses what it has among the lowest scores of the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from trim_kernels.scoring import require_finite, scores, surely_finite

from ...scores.base import Importance
from ...tiles import row_tiles
from .base import RowDecision, RowRequest, register_row_budget

LOW_BITS = 15
"""A key has 31 bits; the first pass over the matrix finds the upper 16, the second one these."""
LOW_MASK = (1 << LOW_BITS) - 1


@register_row_budget("whole", rows_compete=True)
def whole(request: RowRequest) -> RowDecision:
    """How many of the ``request.prune_count`` lowest scores of the matrix each row has; ties go in row-major order."""
    return RowDecision(whole_counts(request.weight, request.importance, request.prune_count))


def whole_counts(weight: Tensor, importance: Importance, count: int) -> Tensor:
    """int32 [R]: how many of the ``count`` lowest scores of the matrix each row has."""
    given = (weight, importance.column_scale, importance.score)
    # A search for what is not finite takes twice the memory of the matrix.
    if not all(surely_finite(tensor) for tensor in given if tensor is not None):
        require_finite(*given)
    if count == 0:
        return torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    upper, rank = _value_of_rank((keys >> LOW_BITS for keys in _tiles(*given)), count)
    lower, rank = _value_of_rank((keys[keys >> LOW_BITS == upper] & LOW_MASK for keys in _tiles(*given)), rank)
    threshold = upper << LOW_BITS | lower
    counted = [((keys < threshold).sum(1), (keys == threshold).sum(1)) for keys in _tiles(*given)]
    below, tied = (torch.cat(counts) for counts in zip(*counted, strict=True))
    tied_before = tied.cumsum(0) - tied
    return (below + (rank - tied_before).clamp(min=0).minimum(tied)).to(torch.int32)


def _tiles(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> Iterator[Tensor]:
    """The keys of the scores, some rows at a time: integers >= 0, ordered as the scores are."""
    for rows in row_tiles(weight):
        yield scores(weight[rows], column_scale, None if score is None else score[rows]).view(torch.int32)


def _value_of_rank(parts: Iterator[Tensor], rank: int) -> tuple[int, int]:
    """The value of the given rank, from 1, among integers below 2^16; and its rank among those that equal it."""
    up_to = reduce(torch.add, (torch.bincount(part.flatten(), minlength=1 << 16) for part in parts)).cumsum(0)
    value = int(torch.searchsorted(up_to, rank))
    return value, rank - (int(up_to[value - 1]) if value else 0)
