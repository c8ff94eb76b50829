"""Mask: the lowest scores of each row become zero, the survivors stay as they are."""

from __future__ import annotations

from torch import Tensor

import trim_kernels

from .base import SolveRequest, register_solver


@register_solver("mask", patterns=True, divided="not")
def mask(request: SolveRequest) -> Tensor:
    """Zero the ``prune_count[i]`` lowest scores of each row i in place, or what the pattern does not keep."""
    weight, prune_count = request.weight, request.prune_count
    column_scale, score = request.importance.column_scale, request.importance.score
    if request.pattern is not None:
        kept = trim_kernels.nm_mask(weight, *request.pattern, column_scale=column_scale, score=score, packed=True)
        trim_kernels.prune_nm_(weight, *request.pattern, column_scale=column_scale, score=score)
        return kept
    kept = trim_kernels.row_mask(weight, prune_count, column_scale=column_scale, score=score, packed=True)
    trim_kernels.prune_rows_(weight, prune_count, column_scale=column_scale, score=score)
    return kept
