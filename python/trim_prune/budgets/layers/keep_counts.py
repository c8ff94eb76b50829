"""From the sparsities that a layer budget returns to integers: how many weights of a group each linear keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...models.discover import Linear
from ...pattern import Keep
from .exact import require_sparsities

ROUNDING = 1e-9
"""So near to a whole number of weights of a group is rounding: 3 * (1 - (1 - 1 / 3)) is not 1."""


def pattern_keeps(sparsities: Sequence[float], linears: Sequence[Linear], of: int, total: int) -> list[Keep]:
    """What each linear keeps of every ``of`` columns. Linears of a block with one sparsity are one unit, kept alike."""
    require_sparsities(sparsities, len(linears))
    units = [(linear.block, sparsity) for linear, sparsity in zip(linears, sparsities, strict=True)]
    sizes = dict.fromkeys(units, 0)
    for unit, linear in zip(units, linears, strict=True):
        sizes[unit] += linear.size
    # ``total`` is a rounded number: counts that meet what it was rounded from are within the budget.
    counts = keep_counts([sparsity for _, sparsity in sizes], list(sizes.values()), of, total - 0.5)
    keeps = dict(zip(sizes, counts, strict=True))
    return [Keep(keeps[unit], of) for unit in units]


def keep_counts(sparsities: Sequence[float], sizes: Sequence[int], of: int, total: float) -> list[int]:
    """Integers k_u from 0 to ``of`` with sum of size_u * k_u <= of * (weights - total), as close as greedily possible.

    Every unit gets the whole part of of * (1 - sparsity). What the budget then allows goes to the largest remainders,
    one each, round after round; if the whole parts exceed the budget, the smallest remainders give first. The earlier
    unit comes first where remainders tie. With units of one size nothing that fits is left over. Integers within the
    budget stay as they are, unless another level of the largest unit would fit.

    Raises:
        ValueError: a sparsity is NaN or infinite.
    """
    require_sparsities(sparsities, len(sizes))
    wanted = [_wish(sparsity, of) for sparsity in sparsities]
    counts = [math.floor(wish) for wish in wanted]
    order = sorted(range(len(sizes)), key=lambda unit: (counts[unit] - wanted[unit], unit))
    left = of * (sum(sizes) - total) - sum(size * count for size, count in zip(sizes, counts, strict=True))
    if counts == wanted and 0 <= left < max(sizes):
        return counts
    while left < 0:
        for unit in reversed(order):
            if left < 0 and counts[unit] > 0:
                counts[unit] -= 1
                left += sizes[unit]
    while fitting := [unit for unit in order if counts[unit] < of and sizes[unit] <= left]:
        for unit in fitting:
            if sizes[unit] <= left:
                counts[unit] += 1
                left -= sizes[unit]
    return counts


def _wish(sparsity: float, of: int) -> float:
    wish = of * min(max(1 - sparsity, 0.0), 1.0)
    return round(wish) if abs(wish - round(wish)) <= ROUNDING else wish
