"""Uniform rows: the same count in every row, as even as an exact total allows."""

from __future__ import annotations

import trim_kernels

from .base import RowDecision, RowRequest, register_row_budget


@register_row_budget("uniform")
def uniform(request: RowRequest) -> RowDecision:
    """Counts that differ by at most one and sum to the requested total."""
    rows, columns = request.weight.shape
    return RowDecision(trim_kernels.uniform_counts(rows, columns, request.prune_count))
