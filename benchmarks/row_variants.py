"""Optimal rows with the error of each row measured by another unit: what was tried against the plain sum.

Registered for ``python -m benchmarks.quality --also``; none is better enough to be an option, see benchmarks/README.md.
"""

from __future__ import annotations

from torch import Tensor

import trim_kernels
from trim_prune.budgets.rows import RowDecision, RowRequest, register_row_budget
from trim_prune.budgets.rows.optimal import error_curve


@register_row_budget("optimal_relative", needs=["gram"])
def optimal_relative(request: RowRequest) -> RowDecision:
    """The sum of E_i(k_i) / E_i(all): what each row loses of its own output."""
    return _optimal(request, 1.0)


@register_row_budget("optimal_root", needs=["gram"])
def optimal_root(request: RowRequest) -> RowDecision:
    """The sum of E_i(k_i) / sqrt(E_i(all)), half way between the two."""
    return _optimal(request, 0.5)


def _optimal(request: RowRequest, power: float) -> RowDecision:
    curve, first = error_curve(request)
    whole = _energy(request.weight.float(), request.statistics.gram)
    unit = whole.clamp(min=1e-12 * float(whole.max())) ** power
    return RowDecision(trim_kernels.optimal_counts(curve / unit[:, None], first, request.prune_count))


def _energy(weight: Tensor, gram: Tensor) -> Tensor:
    """Float32 [R]: E_i(all) = w^T G w of each row, the squared norm of its outputs."""
    return ((weight @ gram) * weight).sum(dim=1)
