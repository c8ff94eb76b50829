"""Optimal rows: the counts that lose least of the linear's output, found exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import Tensor

import trim_kernels

from ...errors import TrimPruneError
from .base import RowDecision, RowRequest, register_row_budget

if TYPE_CHECKING:
    from ...recipe import Recipe

SPREAD = 0.12
TOKENS_PER_COLUMN = 0.5
"""With fewer calibration tokens the curves fit these tokens and no others: the default spread shrinks in proportion."""


@register_row_budget("optimal", needs=["gram", "output_gradient"], together=True)
def optimal(request: RowRequest) -> RowDecision:
    """Minimise the sum over rows of g_i E_i(k_i): what the loss suffers when row i loses its k_i lowest scores.

    E_i(k) = d^T G d is the squared error of the row's output, with d the weights that go and G the Gram matrix of all
    calibration tokens; g_i the mean squared gradient of the dense model's loss with respect to that output, measured
    on ``optimal.sequences`` sequences (0: all 1). The share of a row stays within ``optimal.spread`` of that of its
    linear, by default min(0.12, 0.24 tokens / columns). Linears that ``optimal.leave_out`` names keep uniform rows.
    """
    if left_out(request.name, request.recipe):
        rows, columns = request.weight.shape
        return RowDecision(trim_kernels.uniform_counts(rows, columns, request.prune_count))
    curve, first = error_curve(request)
    if request.output_gradient is not None:
        curve *= _shares(request.output_gradient).to(curve.device)[:, None]
    return RowDecision(trim_kernels.optimal_counts(curve, first, request.prune_count))


def left_out(name: str, recipe: Recipe) -> bool:
    """Whether the recipe leaves the linear of this name uniform."""
    return any(fnmatchcase(name, pattern) for pattern in recipe.optimal.leave_out)


def refuse_unmatched(names: Iterable[str], recipe: Recipe) -> None:
    """An error for a pattern of ``optimal.leave_out`` that matches none of the linears of these names."""
    names = list(names)
    for pattern in recipe.optimal.leave_out:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrimPruneError(
                "a pattern of optimal.leave_out matches no linear",
                expected=f"a pattern over names such as {names[0]}",
                got=repr(pattern),
            )


def error_curve(request: RowRequest) -> tuple[Tensor, int]:
    """E_i(k) of all counts that a row may have, float32 [R, counts], and the least of them."""
    first, last = _band(request)
    column_scale, score = request.importance.column_scale, request.importance.score
    weight, gram = request.weight, request.statistics.gram

    def part(rows: slice) -> Tensor:
        own = None if score is None else score[rows]
        return trim_kernels.row_error_curve(weight[rows], gram, first, last, column_scale=column_scale, score=own)

    return request.by_rows(len(weight), part), first


def _band(request: RowRequest) -> tuple[int, int]:
    """The least and the most weights that a row may lose."""
    columns, spread = request.weight.shape[1], request.recipe.optimal.spread
    if spread is None:
        spread = SPREAD * min(1.0, request.statistics.tokens / (TOKENS_PER_COLUMN * columns))
    even = request.prune_count / request.weight.numel()
    return max(0, math.floor(columns * (even - spread))), min(columns, math.ceil(columns * (even + spread)))


def _shares(gradient: Tensor) -> Tensor:
    """Of the largest one, so that no curve leaves float32; all ones where no token reached the linear."""
    largest = gradient.max()
    return gradient / largest if largest > 0 else gradient + 1
