"""TRIM rows (Beck et al. 2025, arXiv 2505.16743): counts found by an iterative search on output quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trim_kernels
from trim_kernels.ops.allocate_rows.rounding import row_cap

from .base import RowDecision, RowRequest, register_row_budget

if TYPE_CHECKING:
    from ...recipe import Recipe


def _row_limit(columns: int, recipe: Recipe) -> int:
    # The paper's rounding recentres the shares after clipping them, so rows may leave the cap.
    return columns if recipe.trim.rounding == "floor" else row_cap(columns, recipe.trim.max_sparsity)


@register_row_budget("trim", needs=["search_inputs"], row_limit=_row_limit)
def trim(request: RowRequest) -> RowDecision:
    """The best counts that ``trim_kernels.allocate_rows`` finds; never worse than uniform rows by its metric."""
    options = request.recipe.trim
    budget = trim_kernels.allocate_rows(
        request.weight,
        request.statistics.search_inputs,
        request.prune_count / request.weight.numel(),
        column_scale=request.importance.column_scale,
        score=request.importance.score,
        learning_rates=options.learning_rates,
        negative_learning_rates=options.negative_learning_rates,
        iterations=options.iterations,
        max_sparsity=options.max_sparsity,
        layer_metric=options.layer_metric,
        row_metric=options.row_metric,
        rounding=options.rounding,
    )
    return RowDecision(
        prune_count=budget.prune_count,
        quality=budget.quality,
        baseline_quality=budget.baseline_quality,
        learning_rate=budget.learning_rate,
        iteration=budget.iteration,
        rounded=options.rounding == "floor",
    )
