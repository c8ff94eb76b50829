"""The prune counts that lose least over all rows of a layer, from their error curves."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import describe
from trim_kernels.scoring import require_finite_tensor

TILE_VALUES = 1 << 20
"""Of the curves, looked at together: this bounds the scratch memory."""
HALVINGS = 64
"""Of the multiplier's interval, more than its float64 bits tell apart."""


def optimal_counts(curve: Tensor, first_count: int, total: int) -> Tensor:
    """Counts k that minimise ``sum over rows i of E_i(k_i)`` with ``sum of k_i = total``, exactly that sum.

    ``E_i(k) = curve[i, k - first_count]`` for k from first_count to first_count + L - 1; curves may have any form. For
    a multiplier m each row takes the count that minimises ``E_i(k) - m k``, the lowest of equal ones, and bisection
    finds the m at which the counts sum to ``total``: then they are optimal (Everett, Operations Research 11, 1963).
    Where rows jump over several counts at once and no m hits the sum, whole jumps are made while they fit, those of the
    least cost per count first, and what is missing is made up where it costs least. The sum of errors is then above the
    optimum by no more than the greatest distance of a curve from its convex hull. The same result in every run.

    Args:
        curve: float32 [R, L] with L >= 1, finite, as of :func:`trim_kernels.row_error_curve`; rows may have
            been scaled to weigh them.
        first_count: the count of the first column.
        total: the sum of the counts.

    Returns:
        int32 [R]

    Raises:
        ValueError: an argument has a wrong shape or dtype, a NaN or infinity, or ``total`` is out of reach.
    """
    _check(curve, first_count, total)
    missing = total - curve.shape[0] * first_count
    low, high = _bisect(curve, missing)
    missing -= int(low.sum())
    if missing:
        low = _complete(curve, low, high, missing)
    return (low + first_count).to(torch.int32)


def _check(curve: Tensor, first_count: int, total: int) -> None:
    if not isinstance(curve, Tensor) or curve.dim() != 2 or curve.shape[1] == 0 or curve.dtype != torch.float32:
        raise ValueError(f"curve: expected a float32 matrix [R, L] with at least one column, got {describe(curve)}")
    if isinstance(first_count, bool) or not isinstance(first_count, int) or first_count < 0:
        raise ValueError(f"first_count: expected an int, 0 or more, got {describe(first_count)}")
    rows, length = curve.shape
    lowest, highest = rows * first_count, rows * (first_count + length - 1)
    if isinstance(total, bool) or not isinstance(total, int) or not lowest <= total <= highest:
        raise ValueError(
            f"total: expected an int from {lowest} to {highest} ({rows} rows of {first_count} to "
            f"{first_count + length - 1}), got {describe(total)}"
        )
    require_finite_tensor("curve", curve)


def _bisect(curve: Tensor, missing: int) -> tuple[Tensor, Tensor]:
    """The counts, from 0, at the two ends of a least interval of multipliers: sums ``<= missing`` and ``> missing``.

    At the lower end of the first interval no row takes anything, at its upper end every row takes all.
    """
    rows, length = curve.shape
    low = torch.zeros(rows, dtype=torch.int64, device=curve.device)
    high = torch.full_like(low, length - 1)
    if missing == rows * (length - 1):
        return high, high
    steepest = float(curve.max()) - float(curve.min())
    lower, upper = -2 * steepest, 2 * steepest
    for _ in range(HALVINGS):
        undecided = (low != high).nonzero().flatten()
        counts, middle = low.clone(), lower + (upper - lower) / 2
        for start in range(0, len(undecided), _tile_rows(length)):
            some = undecided[start : start + _tile_rows(length)]
            # Rounding may not undo what another multiplier has shown.
            counts[some] = _least(curve[some], middle).clamp(low[some], high[some])
        taken = int(counts.sum())
        if taken <= missing:
            low, lower = counts, middle
        else:
            high, upper = counts, middle
        if taken == missing:
            break
    return low, high


def _least(curves: Tensor, multiplier: float) -> Tensor:
    """The count, from 0, that minimises each curve less the multiplier times the count."""
    counts = torch.arange(curves.shape[1], dtype=torch.float64, device=curves.device)
    return (curves.to(torch.float64) - multiplier * counts).argmin(dim=1)


def _complete(curve: Tensor, low: Tensor, high: Tensor, missing: int) -> Tensor:
    """Counts with ``missing`` more in all than ``low``: jumps from ``low`` to ``high`` that fit, then single counts."""
    jumps = high - low
    cost = (_at(curve, high) - _at(curve, low)) / jumps.clamp(min=1)
    # On the host: a device would be waited for at every row.
    size, fits, left_out = jumps.tolist(), [0] * len(low), []
    for row in torch.argsort(cost, stable=True).tolist():
        if size[row] > missing:
            left_out.append(row)
        else:
            fits[row] = size[row]
            missing -= size[row]
    counts = low + torch.tensor(fits, dtype=torch.int64, device=low.device)
    if not missing:
        return counts
    # Another jump goes too far, by this much; the other way is to add to what there is.
    further = counts.clone()
    further[left_out[0]] = high[left_out[0]]
    beyond = size[left_out[0]] - missing
    starts = ((counts, missing), (further, -beyond))
    ways = [_moved(curve, start, by, whole) for start, by in starts for whole in (True, False)]
    return min(ways, key=lambda way: float(_at(curve, way).sum()))


def _moved(curve: Tensor, counts: Tensor, by: int, whole: bool) -> Tensor:
    """Counts changed by ``by`` in all: in one row, or step by step where a step costs least per count."""
    counts, sign = counts.clone(), 1 if by > 0 else -1
    missing = abs(by)
    while missing:
        steps = torch.arange(missing if whole else 1, missing + 1, device=curve.device)
        row, step = _cheapest(curve, counts, steps * sign)
        counts[row] += step
        missing -= abs(step)
    return counts


def _cheapest(curve: Tensor, counts: Tensor, steps: Tensor) -> tuple[int, int]:
    """The row and the step of the least cost per count among those that stay within the curves."""
    best = (torch.inf, 0, 0)
    for start in range(0, len(counts), _tile_rows(len(steps))):
        tile = slice(start, start + _tile_rows(len(steps)))
        there = counts[tile, None] + steps
        outside = (there < 0) | (there >= curve.shape[1])
        errors = curve[tile].gather(1, there.clamp(0, curve.shape[1] - 1)).to(torch.float64)
        costs = ((errors - _at(curve[tile], counts[tile])[:, None]) / steps.abs()).masked_fill(outside, torch.inf)
        place = int(costs.argmin())
        best = min(best, (float(costs.flatten()[place]), start + place // len(steps), int(steps[place % len(steps)])))
    return best[1], best[2]


def _at(curve: Tensor, counts: Tensor) -> Tensor:
    """The error of each row at its count; float64 [R]."""
    return curve.gather(1, counts[:, None])[:, 0].to(torch.float64)


def _tile_rows(length: int) -> int:
    return max(1, TILE_VALUES // length)
