"""Optimal rows: the counts that lose least of the linear's output, found exactly."""

from __future__ import annotations

import math

import trim_kernels

from .base import RowDecision, RowRequest, register_row_budget


@register_row_budget("optimal", needs=["gram"])
def optimal(request: RowRequest) -> RowDecision:
    """Minimise the sum over rows of E_i(k_i), the squared output error when row i loses its k_i lowest scores.

    E_i(k) = d^T G d, with d the weights that go and G the Gram matrix of all calibration tokens. The share of a
    row stays within ``optimal.spread`` of that of its linear.
    """
    weight, gram, count = request.weight, request.statistics.gram, request.prune_count
    column_scale, score = request.importance.column_scale, request.importance.score
    columns = weight.shape[1]
    even, spread = count / weight.numel(), request.recipe.optimal.spread
    first = max(0, math.floor(columns * (even - spread)))
    last = min(columns, math.ceil(columns * (even + spread)))
    curve = trim_kernels.row_error_curve(weight, gram, first, last, column_scale=column_scale, score=score)
    prune_count = trim_kernels.optimal_counts(curve, first, count)
    return RowDecision(prune_count)
