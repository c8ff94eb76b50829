"""Whole rows: all rows of a linear compete, and each loses what it has among the lowest scores of the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from trim_kernels.scoring import require_finite, scores, surely_finite

from ...ranks import key_of_rank, keys
from ...scores.base import Importance
from ...tiles import row_tiles
from .base import RowDecision, RowRequest, register_row_budget


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
    tiles = partial(_scores, *given)
    threshold, rank = key_of_rank(tiles, count)
    counted = [((keys(tile) < threshold).sum(1), (keys(tile) == threshold).sum(1)) for tile in tiles()]
    below, tied = (torch.cat(counts) for counts in zip(*counted, strict=True))
    tied_before = tied.cumsum(0) - tied
    return (below + (rank - tied_before).clamp(min=0).minimum(tied)).to(torch.int32)


def _scores(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> Iterator[Tensor]:
    """The scores, float32, some rows at a time."""
    for rows in row_tiles(weight):
        yield scores(weight[rows], column_scale, None if score is None else score[rows])
