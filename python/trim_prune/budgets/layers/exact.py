"""From the sparsities that a layer budget returns to prune counts that meet the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def exact_counts(sparsities: Sequence[float], sizes: Sequence[int], limits: Sequence[int], total: int) -> list[int]:
    """Integer prune counts, none above its limit, whose sum is exactly ``total``.

    The sparsities are shifted together and clamped to [0, limit / size], and the shares sparsity * size rounded by
    largest remainder.

    Raises:
        ValueError: a sparsity is NaN or infinite, or the limits together are below ``total``.
    """
    for sparsity in sparsities:
        if not math.isfinite(sparsity):
            raise ValueError(f"a sparsity of {sparsity} is not a number")
    if not 0 <= total <= sum(limits):
        raise ValueError(f"{total} of {sum(sizes)} weights are to go, and at most {sum(limits)} may")
    ceilings = [limit / size for limit, size in zip(limits, sizes, strict=True)]
    shift = _shift(sparsities, sizes, ceilings, total)
    # Exact rationals: in float64 the sum over a large model need not round to the same integer as its parts.
    shares = [
        Fraction(min(max(sparsity + shift, 0.0), ceiling)) * size
        for sparsity, size, ceiling in zip(sparsities, sizes, ceilings, strict=True)
    ]
    return _round(shares, limits, total)


def _shift(sparsities: Sequence[float], sizes: Sequence[int], ceilings: Sequence[float], total: int) -> float:
    """What is to be added to every sparsity before it is clamped; 0 if the sum is right as it is."""

    def reached(shift: float) -> float:
        return math.fsum(
            min(max(sparsity + shift, 0.0), ceiling) * size
            for sparsity, size, ceiling in zip(sparsities, sizes, ceilings, strict=True)
        )

    # Within rounding nothing is shifted: a budget that meets the target keeps its shares to the last bit.
    if abs(reached(0.0) - total) <= 0.5:
        return 0.0
    low, high = -max(sparsities), 1 - min(sparsities)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < total else (low, middle)
    return high


def _round(shares: Sequence[Fraction], limits: Sequence[int], total: int) -> list[int]:
    """Every linear gets the whole part of its share; what is missing goes to the largest remainders, one each.

    The earlier linear comes first where they tie. What a last bit of the shift leaves over goes round once more.
    """
    counts = [min(int(share), limit) for share, limit in zip(shares, limits, strict=True)]
    order = sorted(range(len(shares)), key=lambda index: (counts[index] - shares[index], index))
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        open_ = [i for i in order if (counts[i] < limits[i] if step > 0 else counts[i] > 0)]
        for index in open_[: abs(missing)]:
            counts[index] += step
    return counts
