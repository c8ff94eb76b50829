"""Optimal layers: the sparsities that cost the loss least, by the output errors of all rows of the model."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trim_kernels.precision import full_float32

from ...calibration.joining import join
from ...calibration.statistics import Collector, LinearStatistics, Need
from ...fallbacks import counted, refuse_fallback
from ...models.device import on_device
from ...models.discover import Linear
from ...scores import SCORES, ScoreRequest
from ...tiles import row_tiles
from ..rows.base import RowRequest
from ..rows.optimal import error_curve, left_out
from .base import LayerRequest, register_layer_budget

OCTAVES = 12
"""How far multipliers go below and above the mean slope of a linear's curves."""
STEPS = 2
"""Multipliers in an octave; what a linear loses in between is interpolated."""
HALVINGS = 60


@dataclass(frozen=True)
class Losses:
    """How many weights a linear loses at some multipliers; ``logs``: their binary logarithms, growing."""

    logs: Sequence[float]
    counts: Sequence[float]

    def at(self, log: float) -> float:
        """Interpolated; as at the nearest multiplier outside them."""
        right = min(max(bisect_left(self.logs, log), 1), len(self.logs) - 1)
        share = (log - self.logs[right - 1]) / (self.logs[right] - self.logs[right - 1])
        left, step = self.counts[right - 1], self.counts[right] - self.counts[right - 1]
        return left + step * min(max(share, 0.0), 1.0)


@register_layer_budget("optimal", needs=["output_gradient"], together=True)
def optimal(request: LayerRequest) -> Sequence[float]:
    """Minimise the sum over all rows of the model of g_i E_i(k_i), as the rows of the same name do for each linear.

    At a multiplier m every row loses the k that minimises g_i E_i(k) - m k, E_i being measured in the dense model; the
    m is found at which they lose together what was asked, and a linear's sparsity is what its rows lose at it. The
    share of a row stays within ``optimal.spread`` of the whole. With uniform rows those of a linear lose the same.
    Linears that ``optimal.leave_out`` names have the sparsity of the whole. The share of each linear is known without
    holding the curves of more than one: memory is that of one block's Gram matrices.
    """
    fallen: list[tuple[str, ...]] = []
    losses = dict(_losses(request, fallen))
    if fallen:
        assert request.dense is not None
        request.dense.events.warn(f"for layers 'optimal', {counted(fallen, len(losses))}")
    together = request.sparsity * sum(linear.size for linear in losses)
    if not losses:
        return [request.sparsity] * len(request.linears)
    log = log_multiplier(list(losses.values()), together)
    return [
        losses[linear].at(log) / linear.size if linear in losses else request.sparsity for linear in request.linears
    ]


def log_multiplier(losses: Sequence[Losses], together: float) -> float:
    """The binary logarithm of the multiplier at which all linears lose so many weights together, by bisection."""
    low, high = min(one.logs[0] for one in losses), max(one.logs[-1] for one in losses)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if sum(one.at(middle) for one in losses) < together:
            low = middle
        else:
            high = middle
    return high


def _losses(request: LayerRequest, fallen: list[tuple[str, ...]]) -> Iterator[tuple[Linear, Losses]]:
    """Those of each linear; ``fallen`` gets the steps of linears that need a fallback."""
    dense, recipe = request.dense, request.recipe
    assert dense is not None
    needs: frozenset[Need] = SCORES.get(recipe.score).needs | {"gram"}
    walked = dense.states.twin()
    for block in dense.blocks:
        linears = [linear for linear in block.linears if not left_out(linear.name, recipe)]
        collector = Collector(linears, needs, recipe.tokens_per_sequence, partial(dense.timings.phase, "statistics"))
        with on_device(block, dense.device), full_float32(dense.device):
            with dense.timings.phase("forward"):
                walked.propagate(block, collector)
                join(collector, dense.team)
            for linear in linears:
                statistics = collector.statistics(linear)
                losses = _losses_of(request, linear, statistics)
                refuse_fallback(recipe, linear, statistics.steps)
                if statistics.steps:
                    fallen.append(statistics.steps)
                yield linear, losses
        dense.events.emit("errors", block=block.index, blocks=len(dense.blocks))


def _losses_of(request: LayerRequest, linear: Linear, statistics: LinearStatistics) -> Losses:
    weight, recipe, dense = linear.weight.contiguous(), request.recipe, request.dense
    assert dense is not None
    importance = SCORES.get(recipe.score).function(ScoreRequest(weight, statistics, recipe))
    count = round(request.sparsity * weight.numel())
    by_rows = dense.team.by_rows
    curve, first = error_curve(RowRequest(weight, importance, statistics, count, recipe, linear.name, by_rows=by_rows))
    gradient = dense.output_gradients.get(linear)
    if gradient is not None:
        curve *= gradient.to(curve.device)[:, None]
    rows_alike = recipe.rows == "uniform"
    if rows_alike:
        curve = curve.sum(dim=0, keepdim=True)
    slope = float((curve[:, -1] - curve[:, 0]).sum(dtype=torch.float64)) / max(1, curve[:, 1:].numel())
    middle = math.log2(slope) if slope > 0 else 0.0
    logs = [middle + step / STEPS for step in range(-OCTAVES * STEPS, OCTAVES * STEPS + 1)]
    alike = len(weight) if rows_alike else 1
    return Losses(logs, [alike * (len(curve) * first + taken(curve, 2.0**log)) for log in logs])


def taken(curve: Tensor, multiplier: float) -> int:
    """How many counts all rows go along their curves at a multiplier."""
    price = multiplier * torch.arange(curve.shape[1], dtype=torch.float32, device=curve.device)
    return sum(int((curve[rows] - price).argmin(dim=1).sum()) for rows in row_tiles(curve))
