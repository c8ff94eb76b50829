"""Mask: the lowest scores of each row become zero, the survivors stay as they are."""

from __future__ import annotations

from torch import Tensor

import trim_kernels

from ..calibration.statistics import LinearStatistics
from ..scores.base import Importance
from .base import register_solver


@register_solver("mask")
def mask(weight: Tensor, prune_count: Tensor, importance: Importance, statistics: LinearStatistics) -> Tensor:
    """Zero the ``prune_count[i]`` lowest scores of each row i in place."""
    column_scale, score = importance.column_scale, importance.score
    kept = trim_kernels.row_mask(weight, prune_count, column_scale=column_scale, score=score, packed=True)
    trim_kernels.prune_rows_(weight, prune_count, column_scale=column_scale, score=score)
    return kept
