"""From the share of weights that each row loses to whole numbers of weights.

Two ways, one interface: ``exact`` hits the asked total to the weight and respects the cap; ``floor`` repeats the
arithmetic of TRIM's code (float32, truncation), which ends a little below the asked sparsity and may leave the cap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


def total_count(rows: int, columns: int, sparsity: float) -> int:
    """How many of ``rows * columns`` weights go: ``round(sparsity * rows * columns)``."""
    return round(sparsity * (rows * columns))


def row_cap(columns: int, max_sparsity: float) -> int:
    """The most weights a row may lose: ``floor(max_sparsity * columns)``, forgiving the last bit of the product."""
    return math.floor(max_sparsity * columns + 1e-9)


def uniform_counts(rows: int, columns: int, total: int, device: torch.device | str | None = None) -> Tensor:
    """Prune counts as even as possible: int32 [rows], summing to ``total``; the first rows take the remainder.

    Raises:
        ValueError: ``total`` is not between 0 and ``rows * columns``.
    """
    if not 0 <= total <= rows * columns:
        raise ValueError(
            f"total: expected a count from 0 to {rows * columns} ({rows} x {columns} weights), got {total}"
        )
    base, remainder = divmod(total, max(1, rows))
    counts = torch.full((rows,), base, dtype=torch.int32, device=device)
    counts[:remainder] += 1
    return counts


class Rounding(Protocol):
    """How the shares of a search are kept feasible and turned into counts."""

    def uniform(self) -> Tensor:
        """The shares [R] to start from, all equal."""

    def confine(self, shares: Tensor) -> Tensor:
        """Shares within their limits and with the asked mean."""

    def counts(self, shares: Tensor) -> Tensor:
        """int32 [R] prune counts of the shares."""

    def finish(self, shares: Tensor) -> Tensor:
        """The counts to return for the best shares."""


class FloorRounding:
    """TRIM's code: float32 shares, clipped and then recentred (which may leave the limits again), counts truncated."""

    def __init__(self, rows: int, columns: int, sparsity: float, max_sparsity: float, device: torch.device) -> None:
        self._rows, self._columns, self._device = rows, columns, device
        self._sparsity, self._max_sparsity = sparsity, max_sparsity

    def uniform(self) -> Tensor:
        return torch.ones(self._rows, dtype=torch.float32, device=self._device) * self._sparsity

    def confine(self, shares: Tensor) -> Tensor:
        clipped = shares.clamp(0, self._max_sparsity)
        return clipped - clipped.mean() + self._sparsity

    def counts(self, shares: Tensor) -> Tensor:
        return (self._columns * shares).long().clamp(0, self._columns).to(torch.int32)

    def finish(self, shares: Tensor) -> Tensor:
        return self.counts(self.confine(shares))


class ExactRounding:
    """Shares projected onto ``{0 <= share <= cap, mean = target}``, counts by largest remainder.

    Raises:
        ValueError: even with every row at its cap fewer weights would go than asked.
    """

    def __init__(self, rows: int, columns: int, sparsity: float, max_sparsity: float, device: torch.device) -> None:
        self._rows, self._columns, self._device = rows, columns, device
        self._total = total_count(rows, columns, sparsity)
        self._cap = row_cap(columns, max_sparsity)
        if self._total > rows * self._cap:
            raise ValueError(
                f"sparsity: expected at most {self._cap / columns:.6f} for {columns} columns with "
                f"max_sparsity={max_sparsity} (at most {self._cap} weights of a row), got {sparsity}; "
                "ask for less or raise max_sparsity"
            )

    def uniform(self) -> Tensor:
        target = self._total / (self._rows * self._columns)
        return torch.full((self._rows,), target, dtype=torch.float64, device=self._device)

    def confine(self, shares: Tensor) -> Tensor:
        cap = self._cap / self._columns
        return shift_to_sum(shares.clamp(0, cap), cap, self._total / self._columns)

    def counts(self, shares: Tensor) -> Tensor:
        return apportion(shares * self._columns, self._total, self._cap)

    def finish(self, shares: Tensor) -> Tensor:
        return self.counts(shares)


def shift_to_sum(shares: Tensor, cap: float, target: float) -> Tensor:
    """``clip(shares + t, 0, cap)`` for the t that makes the sum ``target``; float64 [R].

    The sum is piecewise linear and rising in t, with a corner where a share leaves 0 (slope + 1) and where one reaches
    the cap (slope - 1); sorting the corners finds the right piece.
    """
    corners = torch.cat([-shares, cap - shares])
    slopes = torch.ones_like(corners)
    slopes[shares.numel() :] = -1
    corners, order = corners.sort()
    slope = slopes[order].cumsum(0)
    sums = torch.cat([slope.new_zeros(1), (slope[:-1] * corners.diff()).cumsum(0)])
    piece = int(torch.searchsorted(sums, target).clamp(1, sums.numel() - 1)) - 1
    shift = corners[piece] + (target - sums[piece]) / slope[piece].clamp(min=1)
    return (shares + shift).clamp(0, cap)


def apportion(wanted: Tensor, total: int, cap: int) -> Tensor:
    """Whole counts near ``wanted`` (float64 [R]) that sum to ``total``, none above ``cap``: largest remainder.

    Ties go to the first rows. Requires ``0 <= total <= R * cap`` and ``wanted`` summing to about ``total``.
    """
    base = wanted.floor().clamp(0, cap)
    counts = base.long()
    missing = total - int(counts.sum())
    by_remainder = torch.argsort(wanted - base, descending=True, stable=True)
    while missing != 0:
        room = counts < cap if missing > 0 else counts > 0
        candidates = by_remainder[room[by_remainder]]
        taken = candidates[:missing] if missing > 0 else candidates[missing:]
        counts[taken] += 1 if missing > 0 else -1
        missing = total - int(counts.sum())
    return counts.to(torch.int32)


ROUNDINGS: dict[str, Callable[[int, int, float, float, torch.device], Rounding]] = {
    "exact": ExactRounding,
    "floor": FloorRounding,
}
