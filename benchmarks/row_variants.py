"""Optimal rows as they were tried otherwise: other errors, fewer inputs, one budget for several linears.

Registered for ``python -m benchmarks.quality --also``; none is better enough to be an option, see benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import trim_kernels
from trim_prune.budgets.layers import LayerRequest, register_layer_budget
from trim_prune.budgets.rows import RowDecision, RowRequest, register_row_budget
from trim_prune.budgets.rows.optimal import error_curve, left_out, optimal
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.models.discover import Linear
from trim_prune.scores import SCORES, ScoreRequest


@register_row_budget("optimal_relative", needs=["gram"])
def optimal_relative(request: RowRequest) -> RowDecision:
    """The sum of E_i(k_i) / E_i(all): what each row loses of its own output."""
    return _optimal(request, 1.0)


@register_row_budget("optimal_root", needs=["gram"])
def optimal_root(request: RowRequest) -> RowDecision:
    """The sum of E_i(k_i) / sqrt(E_i(all)), half way between the two."""
    return _optimal(request, 0.5)


@register_row_budget("optimal_vectors", needs=["search_inputs"])
def optimal_vectors(request: RowRequest) -> RowDecision:
    """The plain sum over the input vectors that TRIM looks at, in place of all tokens; the band is that of all."""
    inputs = request.statistics.search_inputs.float()
    statistics = LinearStatistics()
    statistics.tokens = request.statistics.tokens
    statistics.gram = inputs @ inputs.T
    curve, first = error_curve(replace(request, statistics=statistics))
    return RowDecision(trim_kernels.optimal_counts(curve, first, request.prune_count))


def _optimal(request: RowRequest, power: float) -> RowDecision:
    if left_out(request.name, request.recipe):
        return optimal(request)
    curve, first = error_curve(request)
    whole = _energy(request.weight.float(), request.statistics.gram)
    unit = whole.clamp(min=1e-12 * float(whole.max())) ** power
    return RowDecision(trim_kernels.optimal_counts(curve / unit[:, None], first, request.prune_count))


def _energy(weight: Tensor, gram: Tensor) -> Tensor:
    """Float32 [R]: E_i(all) = w^T G w of each row, the squared norm of its outputs."""
    return ((weight @ gram) * weight).sum(dim=1)


@register_layer_budget("shared_input", needs=["gram", "column_energy"])
def shared_input(request: LayerRequest) -> Sequence[float]:
    """One budget for the linears that read the same input, such as gate and up."""
    return _shared(request, {linear: id(request.statistics[linear]) for linear in request.linears}, relative=False)


@register_layer_budget("shared_input_relative", needs=["gram", "column_energy"])
def shared_input_relative(request: LayerRequest) -> Sequence[float]:
    """Likewise, with errors relative to the squared output of each linear."""
    return _shared(request, {linear: id(request.statistics[linear]) for linear in request.linears}, relative=True)


@register_layer_budget("shared_block", needs=["gram", "column_energy"])
def shared_block(request: LayerRequest) -> Sequence[float]:
    """One budget for all linears of a block."""
    return _shared(request, {linear: linear.block for linear in request.linears}, relative=False)


@register_layer_budget("shared_block_relative", needs=["gram", "column_energy"])
def shared_block_relative(request: LayerRequest) -> Sequence[float]:
    """Likewise, with errors relative to the squared output of each linear."""
    return _shared(request, {linear: linear.block for linear in request.linears}, relative=True)


def _shared(request: LayerRequest, group: Mapping[Linear, Hashable], *, relative: bool) -> Sequence[float]:
    """The shares at which a single multiplier minimises the summed error of each group of linears."""
    found = dict.fromkeys(request.linears, request.sparsity)
    for key in dict.fromkeys(group.values()):
        linears = [
            linear for linear in request.linears if group[linear] == key and not left_out(linear.name, request.recipe)
        ]
        if linears:
            curves = [_linear_curve(request, linear, relative=relative) for linear in linears]
            wanted = round(request.sparsity * sum(linear.size for linear in linears))
            for linear, count in zip(linears, _divided(curves, wanted), strict=True):
                found[linear] = count / linear.size
    return list(found.values())


def _linear_curve(request: LayerRequest, linear: Linear, *, relative: bool) -> tuple[Tensor, int]:
    weight, statistics, recipe = linear.weight.contiguous(), request.statistics[linear], request.recipe
    importance = SCORES.get(recipe.score).function(ScoreRequest(weight, statistics, recipe))
    count = round(request.sparsity * linear.size)
    curve, first = error_curve(RowRequest(weight, importance, statistics, count, recipe, linear.name))
    unit = float(_energy(weight.float(), statistics.gram).sum()) if relative else 1.0
    return curve.double() / unit, first


def _divided(curves: Sequence[tuple[Tensor, int]], wanted: int) -> list[int]:
    """How many weights each linear loses at the multiplier that makes them ``wanted`` together."""
    low, high = 0.0, max(float(curve.max()) for curve, _ in curves)
    counts: list[int] = []
    for _ in range(60):
        middle = (low * high) ** 0.5 if low > 0 else 1e-9 * high
        counts = [
            int((first + (curve - middle * torch.arange(curve.shape[1])).argmin(dim=1)).sum())
            for curve, first in curves
        ]
        low, high = (middle, high) if sum(counts) < wanted else (low, middle)
    return counts
