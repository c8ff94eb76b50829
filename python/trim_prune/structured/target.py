"""From a share of the parameters to whole numbers of KV groups and channels for each block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..budgets.layers import exact_counts
from ..errors import TrimPruneError
from .parts import BlockParts, Part
from .ratios import Share

HALVINGS = 200
CAP, MULTIPLE = 0.9, 8

Counts = dict[Part, int]
"""How many units go from each part."""
Given = Sequence[tuple[Part, Share]]


@dataclass(frozen=True)
class Limits:
    """What may go.

    ``cap``: share of the units of a part; one unit stays anyway. ``head_share``: the ratio of KV groups, as a multiple
    of that of channels; 0: none may go. ``bias``: parameters that a part gains when anything goes from it, if its
    consumer gets a bias. ``parameters``: those of the whole model. ``more``: what would let more go,
    beside a higher cap.
    """

    cap: float
    head_share: float
    bias: Mapping[Part, int]
    parameters: int
    more: Sequence[str] = ()

    def of(self, part: Part) -> int:
        """The most units that may go from a part."""
        if part.kind == "attention" and not self.head_share:
            return 0
        return min(part.units - 1, math.floor(self.cap * part.units))

    def share(self, part: Part, share: Share, ratio: float) -> float:
        """Share of its units that a part loses at some ratio, before it is made whole."""
        own = share.weight * ratio if share.fixed is None else share.fixed
        return min(self.of(part) / part.units, own * (self.head_share if part.kind == "attention" else 1.0))


def removed(counts: Mapping[Part, int], limits: Limits) -> int:
    """How many parameters the model loses; added biases count against it."""
    return sum(count * part.unit_parameters - limits.bias[part] for part, count in counts.items() if count)


def divide(blocks: Sequence[BlockParts], shares: Sequence[Share], wanted: int, limits: Limits) -> Counts:
    """How many units go from each part so that ``wanted`` parameters go, within one channel.

    One ratio for all, times the weight of each block and clamped at the limits, is found by bisection. KV groups are
    made whole by largest remainder over all blocks; then channels, for which the ratio is found anew, make up for what
    that left or took. Where there are too few of them for that, the target is met within one KV group.

    Raises:
        TrimPruneError: the target is out of reach.
    """
    attention = [(parts.attention, share) for parts, share in zip(blocks, shares, strict=True)]
    channels = [(parts.feed_forward, share) for parts, share in zip(blocks, shares, strict=True)]
    both = [*attention, *channels]
    _refuse_out_of_reach(wanted, both, limits)
    ratio = _ratio(both, wanted, limits)
    counts = _whole(attention, ratio, limits)
    if removed(counts, limits) > wanted:
        counts = _whole(attention, ratio, limits, more=-1)
    left = wanted - removed(counts, limits)
    ratio, unit, more = _ratio(channels, left, limits), channels[0][0].unit_parameters, 0
    found = _whole(channels, ratio, limits)
    # The ratio is right for shares of channels; rounding them, and biases of blocks that lose none, may miss by a few.
    while (step := round((left - removed(found, limits)) / unit)) != 0:
        better = _whole(channels, ratio, limits, more=more + step)
        if abs(left - removed(better, limits)) >= abs(left - removed(found, limits)):
            break
        found, more = better, more + step
    return counts | found


def divide_evenly(
    blocks: Sequence[BlockParts],
    wanted: int,
    limits: Limits,
    multiple: int,
    can_stay: Callable[[int], bool] = lambda _: True,
) -> Counts:
    """As :func:`divide`, the same from every block; the channels that stay are a multiple of ``multiple``.

    ``can_stay(groups)``: whether every block may be left with so many KV groups, fewer than it has. The target is met
    within half of so many channels of every block.

    Raises:
        TrimPruneError: the target is out of reach.
    """
    attention, channels = blocks[0].attention, blocks[0].feed_forward
    everywhere = [(part, Share(1.0)) for parts in blocks for part in parts]
    _refuse_out_of_reach(wanted, everywhere, limits)
    wish = limits.share(attention, Share(1.0), _ratio(everywhere, wanted, limits)) * attention.units
    least = channels.units - limits.of(channels)
    allowed = [*range(-(-least // multiple) * multiple, channels.units, multiple), channels.units]
    step = max((after - before for before, after in pairwise(allowed)), default=1)
    tolerance = len(blocks) * (step * channels.unit_parameters / 2 + limits.bias[channels])
    missed: list[int] = []
    # The nearest number of groups first.
    for groups in sorted(range(limits.of(attention) + 1), key=lambda count: (abs(count - wish), count != round(wish))):
        if groups and not can_stay(attention.units - groups):
            continue
        taken = removed({parts.attention: groups for parts in blocks}, limits)
        left = channels.units - (wanted - taken) / len(blocks) / channels.unit_parameters
        kept = min(allowed, key=lambda count: abs(count - left))
        counts = {part: groups if part.heads else channels.units - kept for parts in blocks for part in parts}
        missed.append(removed(counts, limits) - wanted)
        if abs(missed[-1]) <= tolerance:
            return counts
    raise TrimPruneError(
        "mode uniform: no number of KV groups and channels that every block can have meets the target",
        expected=f"{limits.parameters - wanted} parameters stay",
        got=f"{limits.parameters - wanted - min(missed, key=abs)} at best",
        fix="another target, a smaller multiple, or mode: ragged",
    )


def _spent(given: Given, ratio: float, limits: Limits) -> float:
    """As :func:`removed`, before units are made whole."""
    shares = [(part, limits.share(part, share, ratio)) for part, share in given]
    return sum(own * part.units * part.unit_parameters - limits.bias[part] for part, own in shares if own)


def _highest(given: Given, limits: Limits) -> float:
    """A ratio at which every part is at its limit."""
    weights = [share.weight for _, share in given if share.fixed is None and share.weight > 0]
    return 1 / min([*weights, 1.0]) / min(limits.head_share or 1.0, 1.0)


def _ratio(given: Given, wanted: int, limits: Limits) -> float:
    low, high = 0.0, _highest(given, limits)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _spent(given, middle, limits) < wanted else (low, middle)
    return high


def _whole(given: Given, ratio: float, limits: Limits, *, more: int = 0) -> Counts:
    """Whole numbers of units at some ratio, ``more`` than their sum rounds to; blocks that give none stay so."""
    counts = {part: 0 for part, _ in given}
    free: dict[Part, float] = {}
    for part, share in given:
        own = limits.share(part, share, ratio)
        if share.fixed is not None:
            counts[part] = min(round(own * part.units), limits.of(part))
        elif own > 0:
            free[part] = own
    sizes, most = [part.units for part in free], [limits.of(part) for part in free]
    total = round(sum(own * part.units for part, own in free.items())) + more
    total = min(max(total, 0), sum(most))
    if free:
        counts |= zip(free, exact_counts(list(free.values()), sizes, most, total), strict=True)
    return counts


def _refuse_out_of_reach(wanted: int, given: Given, limits: Limits) -> None:
    least, most = _spent(given, 0.0, limits), _spent(given, _highest(given, limits), limits)
    unit = max(part.unit_parameters for part, _ in given if not part.heads)
    if wanted > most + unit / 2:
        raise out_of_reach(wanted, most, limits)
    if wanted < least - unit / 2:
        raise TrimPruneError(
            "the rules of the table take more than the target",
            expected=f"at most {wanted} of {limits.parameters} parameters",
            got=f"{least:.0f}",
            fix="lower the ratios of the rules, or the target",
        )


def out_of_reach(wanted: int, most: float, limits: Limits) -> TrimPruneError:
    """The error for a target that would take more than may go, or empty a block."""
    least = limits.parameters - int(most)
    stays = limits.parameters - wanted
    return TrimPruneError(
        "the target is out of reach: it would empty a block, or take more of it than cap or a rule allows",
        expected=f"at least {least} of {limits.parameters} parameters stay ({least / limits.parameters:.4f})",
        got=f"{stays} ({stays / limits.parameters:.4f})",
        fix=", or ".join(("keep more", "raise cap", *limits.more)),
    )
