"""TRIM's search with every learning rate as a chain of one batch, and its early stopping replayed afterwards.

What the device does (:class:`Chains`) never waits for the host: a round is a fixed list of tensor operations on
[chains, R], so that it may be captured as a CUDA graph. What the sequential search of ``search.py`` would have skipped
is computed anyway, and :func:`replay` reads from the trace where that search would have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS
from trim_kernels.ops.allocate_rows.rounding import row_cap, total_count
from trim_kernels.ops.row_quality import POWER_EPSILON, RowQuality, decibel
from trim_kernels.scoring import overflow

Statistics = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Prune counts int32 [chains, R] -> (dropped_sq, cross), float64 [chains, R]; must not wait for the device."""


def replay(trace: Tensor, positive: int, negative: int) -> tuple[Tensor, int | None]:
    """What the sequential search would have looked at, and the chain in which it would have found its budget.

    Args:
        trace: float64 [1 + positive + negative, 1 + iterations] as of ``search.search_rows``, but without gaps;
            NaN = the outputs of a candidate were beyond float32.
        positive: how many learning rates are above 0; the rest, ``negative`` of them, is below.

    Returns:
        The trace on the CPU with NaN where nothing would have been tried, and the winning chain, from 0; None when
        nothing beats uniform shares.

    Raises:
        ValueError: a candidate that would have been tried is NaN.
    """
    tried = torch.full(trace.shape, math.nan, dtype=torch.float64)
    qualities = trace.tolist()
    best_quality = baseline = qualities[0][0]
    tried[0, 0] = baseline
    _require_numbers([baseline])
    winner = None
    for chains in (range(positive), range(positive, positive + negative)):
        previous = -math.inf
        for chain in chains:
            _require_numbers(qualities[1 + chain])
            tried[1 + chain] = trace[1 + chain]
            quality = max(qualities[1 + chain])
            if quality > best_quality:
                best_quality, winner = quality, chain
            if not quality > previous:
                break
            previous = quality
        if winner is not None:
            break
    return tried, winner


def _require_numbers(qualities: list[float]) -> None:
    if any(math.isnan(quality) for quality in qualities):
        raise ValueError(overflow())


class Chains:
    """The searches of all learning rates side by side; nothing here waits for the device.

    Call :meth:`round` once per iteration, then read ``trace`` [1 + chains, 1 + iterations] and ``best_shares``
    [chains, R], the shares of each chain's best candidate.
    """

    def __init__(
        self,
        statistics: Statistics,
        dense_sq: Tensor,
        peak: Tensor,
        tokens: int,
        rounding: BatchedRounding,
        rates: Sequence[float],
        iterations: int,
        layer_metric: str,
        row_metric: str,
    ) -> None:
        self._statistics, self._rounding = statistics, rounding
        self._dense_sq, self._peak, self._tokens = dense_sq, peak, tokens
        self._layer_metric, self._row_metric = LAYER_METRICS[layer_metric], ROW_METRICS[row_metric]
        uniform = rounding.uniform()
        layer, rows = self._evaluate(uniform)
        self._rates = torch.tensor(rates, dtype=torch.float64, device=uniform.device).unsqueeze(1)
        self._shares = uniform.repeat(len(rates), 1)
        self._row_quality = rows.repeat(len(rates), 1)
        self._quality = layer.repeat(len(rates))
        self.best_shares = self._shares.clone()
        self.trace = layer.new_full((1 + len(rates), 1 + iterations), math.nan)
        self.trace[:, 0] = layer
        self._column = torch.ones(1, dtype=torch.int64, device=uniform.device)

    def round(self) -> None:
        """One step of every chain. Changes tensors in place only, so that a captured round may be replayed."""
        self._shares.copy_(self._rounding.confine(_step(self._shares, self._row_quality, self._rates)))
        layer, rows = self._evaluate(self._shares)
        self._row_quality.copy_(rows)
        better = layer > self._quality
        self._quality.copy_(torch.where(better, layer, self._quality))
        self.best_shares.copy_(torch.where(better.unsqueeze(1), self._shares, self.best_shares))
        self.trace[1:].index_copy_(1, self._column, layer.unsqueeze(1))
        self._column.add_(1)

    def _evaluate(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Quality of the layer, float64 [chains], NaN after an overflow, and of each row, float64 [chains, R]."""
        dropped_sq, cross = self._statistics(self._rounding.counts(shares))
        rows = RowQuality(self._dense_sq, dropped_sq, cross, self._peak, self._tokens)
        layer = self._layer_metric(rows, _as_one_row(rows))
        finite = torch.isfinite(dropped_sq).all(dim=1) & torch.isfinite(self._dense_sq).all()
        return torch.where(finite, layer, math.nan), self._row_metric(rows)


def _step(shares: Tensor, row_quality: Tensor, rates: Tensor) -> Tensor:
    """``search.step`` of every chain."""
    low, high = row_quality.amin(dim=1, keepdim=True), row_quality.amax(dim=1, keepdim=True)
    change = (row_quality - low) / (high - low + 1e-6) * (2 * rates)
    change = change - change.mean(dim=1, keepdim=True)
    return (shares.to(torch.float64) + change).to(shares.dtype)


def _as_one_row(rows: RowQuality) -> RowQuality:
    """The statistics of the whole output as one vector, [chains]."""
    return RowQuality(
        dense_sq=rows.dense_sq.sum(),
        dropped_sq=rows.dropped_sq.sum(dim=1),
        cross=rows.cross.sum(dim=1),
        peak=rows.peak.amax(),
        tokens=rows.tokens * rows.peak.numel(),
    )


def _snr(layer: RowQuality) -> Tensor:
    signal = layer.dense_sq / layer.tokens
    return torch.where(layer.mse < POWER_EPSILON, math.inf, decibel(signal, layer.mse))


LAYER_METRICS: dict[str, Callable[[RowQuality, RowQuality], Tensor]] = {
    "cosine": lambda rows, layer: layer.cosine,  # noqa: ARG005
    "cosine_rows": lambda rows, layer: rows.cosine.mean(dim=1),  # noqa: ARG005
    "mse": lambda rows, layer: -layer.mse,  # noqa: ARG005
    "mse_rows": lambda rows, layer: -rows.mse.mean(dim=1),  # noqa: ARG005
    "snr": lambda rows, layer: _snr(layer),  # noqa: ARG005
    "psnr": lambda rows, layer: layer.psnr,  # noqa: ARG005
    "psnr_rows": lambda rows, layer: rows.psnr.mean(dim=1),  # noqa: ARG005
}
"""``metrics.STATISTIC_METRICS`` of every chain, from its rows [chains, R] and from its layer as one row [chains]."""


class BatchedFloor:
    """``rounding.FloorRounding`` of every chain."""

    def __init__(self, rows: int, columns: int, sparsity: float, max_sparsity: float, device: torch.device) -> None:
        self._rows, self._columns, self._device = rows, columns, device
        self._sparsity, self._max_sparsity = sparsity, max_sparsity

    def uniform(self) -> Tensor:
        return torch.ones((1, self._rows), dtype=torch.float32, device=self._device) * self._sparsity

    def confine(self, shares: Tensor) -> Tensor:
        clipped = shares.clamp(0, self._max_sparsity)
        return clipped - clipped.mean(dim=1, keepdim=True) + self._sparsity

    def counts(self, shares: Tensor) -> Tensor:
        return (self._columns * shares).long().clamp(0, self._columns).to(torch.int32)


class BatchedExact:
    """``rounding.ExactRounding`` of every chain."""

    def __init__(self, rows: int, columns: int, sparsity: float, max_sparsity: float, device: torch.device) -> None:
        self._rows, self._columns, self._device = rows, columns, device
        self._total = total_count(rows, columns, sparsity)
        self._cap = row_cap(columns, max_sparsity)

    def uniform(self) -> Tensor:
        target = self._total / (self._rows * self._columns)
        return torch.full((1, self._rows), target, dtype=torch.float64, device=self._device)

    def confine(self, shares: Tensor) -> Tensor:
        cap = self._cap / self._columns
        return _shift_to_sum(shares.clamp(0, cap), cap, self._total / self._columns)

    def counts(self, shares: Tensor) -> Tensor:
        return _apportion(shares * self._columns, self._total, self._cap)


BatchedRounding = BatchedFloor | BatchedExact
BATCHED_ROUNDINGS: dict[str, type[BatchedFloor] | type[BatchedExact]] = {"exact": BatchedExact, "floor": BatchedFloor}


def _shift_to_sum(shares: Tensor, cap: float, target: float) -> Tensor:
    """``rounding.shift_to_sum`` of every chain; float64 [chains, R]."""
    corners, order = torch.cat([-shares, cap - shares], dim=1).sort(dim=1)
    slopes = torch.where(order < shares.shape[1], 1.0, -1.0).to(shares.dtype)
    slope = slopes.cumsum(dim=1)
    rises = (slope[:, :-1] * corners.diff(dim=1)).cumsum(dim=1)
    sums = torch.cat([torch.zeros_like(shares[:, :1]), rises], dim=1)
    wanted = torch.full_like(sums[:, :1], target)
    piece = torch.searchsorted(sums, wanted).clamp(1, sums.shape[1] - 1) - 1
    shift = corners.gather(1, piece) + (target - sums.gather(1, piece)) / slope.gather(1, piece).clamp(min=1)
    return (shares + shift).clamp(0, cap)


def _apportion(wanted: Tensor, total: int, cap: int) -> Tensor:
    """``rounding.apportion`` of every chain, whose first round always suffices here.

    ``wanted`` lies in [0, cap] and sums to ``total``, so the floors sum to no more than it, and fewer are missing than
    rows have a remainder; such a row is below the cap.
    """
    base = wanted.floor()
    missing = total - base.sum(dim=1, keepdim=True)
    by_remainder = torch.argsort(wanted - base, dim=1, descending=True, stable=True)
    room = (base < cap).gather(1, by_remainder)
    taken = room & (room.cumsum(dim=1) <= missing)
    return (base + torch.zeros_like(base).scatter_(1, by_remainder, taken.to(base.dtype))).to(torch.int32)
