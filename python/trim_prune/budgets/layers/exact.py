"""From the sparsities that a layer budget returns to prune counts that meet the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def exact_counts(sparsities: Sequence[float], sizes: Sequence[int], limits: Sequence[int], total: int) -> list[int]:
    """Integer prune counts, none above its limit, whose sum is exactly ``total``.

    The sparsities are shifted together and the shares (sparsity + shift) * size clamped to [0, limit], then rounded by
    largest remainder: every linear gets the whole part of its share, and what is missing goes to the largest
    remainders, one each, the earlier linear first where they tie. Sparsities that meet the total within half a weight
    are not shifted: they keep their shares to the last bit.

    Raises:
        ValueError: not one sparsity for each size; a sparsity is NaN or infinite; or the limits together are below
            ``total``.
    """
    require_sparsities(sparsities, len(sizes))
    if not 0 <= total <= sum(limits):
        raise ValueError(f"{total} of {sum(sizes)} weights are to go, and at most {sum(limits)} may")
    # Exact rationals: in float64 the sum over a large model need not round to the same integer as its parts.
    exact = [Fraction(float(sparsity)) for sparsity in sparsities]
    shares = _shares(exact, sizes, limits, Fraction())
    if abs(sum(shares, Fraction()) - total) > Fraction(1, 2):
        shares = _shares(exact, sizes, limits, _shift(exact, sizes, limits, total))
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda index: (counts[index] - shares[index], index))
    # Never more than there are shares with a remainder, and so never beyond a limit.
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


def require_sparsities(sparsities: Sequence[float], linears: int) -> None:
    """Raise ValueError unless there is one finite sparsity for each linear."""
    if len(sparsities) != linears:
        raise ValueError(f"expected {linears} sparsities, one for each linear, got {len(sparsities)}")
    for sparsity in sparsities:
        if not math.isfinite(sparsity):
            raise ValueError(f"a sparsity of {sparsity} is not a number")


def _shares(
    sparsities: Sequence[Fraction], sizes: Sequence[int], limits: Sequence[int], shift: Fraction
) -> list[Fraction]:
    return [
        min(max((sparsity + shift) * size, Fraction()), Fraction(limit))
        for sparsity, size, limit in zip(sparsities, sizes, limits, strict=True)
    ]


def _shift(sparsities: Sequence[Fraction], sizes: Sequence[int], limits: Sequence[int], total: int) -> Fraction:
    """The least shift at which the shares sum to ``total``.

    The sum is piecewise linear in the shift: a linear adds its size to the slope where its sparsity leaves 0, and takes
    it away where its limit is reached.
    """
    bends = sorted(
        bend
        for sparsity, size, limit in zip(sparsities, sizes, limits, strict=True)
        for bend in ((-sparsity, size), (Fraction(limit, size) - sparsity, -size))
    )
    reached, slope, shift = Fraction(0), 0, bends[0][0]
    for place, change in bends:
        if slope and reached + slope * (place - shift) >= total:
            return shift + (total - reached) / slope
        reached += slope * (place - shift)
        slope += change
        shift = place
    return shift
