"""Reorder the columns of one linear of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trim_kernels.scoring import scores

from ..models.discover import Block
from ..pattern import Keep
from ..scores import Importance
from ..tiles import row_tiles
from .fold import Fold, Move, apply
from .groups import find_order, kept_sum

ROWS = 1024
"""Rows, evenly spaced, that the search looks at: its time is proportional to them."""


@dataclass(frozen=True)
class Reordered:
    """What moved, by names in the model, and what share of the scores the pattern keeps, before and after."""

    moves: list[Move]
    before: float
    after: float


def reorder(block: Block, fold: Fold, weight: Tensor, importance: Importance, keep: Keep) -> Reordered | None:
    """Order the columns of the consumer ``weight`` [R, C] of a fold in place, and what feeds them.

    None, and nothing moves, unless the pattern then keeps more of the scores. Heads are ordered one by one; the columns
    of all queries that share a head are rows of one problem.
    """
    step = -(-len(weight) * fold.repeats // ROWS)
    sample = _scores(weight, importance, slice(None, None, step)).view(-1, fold.heads, fold.repeats, fold.width)
    order = torch.stack([find_order(head.flatten(0, 1), keep) for head in sample.unbind(1)])
    columns = fold.columns(order)
    whole = before = after = 0.0
    for score in (_scores(weight, importance, rows) for rows in row_tiles(weight)):
        whole += float(score.sum(dtype=torch.float64))
        before += kept_sum(score, keep)
        after += kept_sum(score[:, columns], keep)
    if after <= before:
        return None
    moves = fold.moves(block.module, order)
    apply(block.module, moves)
    named = [move._replace(parameter=f"{block.name}.{move.parameter}") for move in moves]
    return Reordered(named, before / whole, after / whole)


def _scores(weight: Tensor, importance: Importance, rows: slice) -> Tensor:
    score = None if importance.score is None else importance.score[rows]
    # Products of finite weights and scales may be infinite.
    return scores(weight[rows], importance.column_scale, score).clamp(max=torch.finfo(torch.float32).max)
