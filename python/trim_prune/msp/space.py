"""The vectors that a search may visit: one level for each unit, and never more than the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Levels = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """Unit u stands at a level from ``low`` to ``high``; the sum over units of cost_u * level_u is at most ``budget``.

    Every operator returns a vector that is within the budget and full: no unit below ``high`` could rise without
    exceeding it. With costs that are all alike, and a budget that is a multiple of them, the sum is the budget. What is
    full depends on integers only, so nothing drifts however long a search is.
    """

    costs: tuple[int, ...]
    low: int
    high: int
    budget: int

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) < 1 or not 0 <= self.low <= self.high:
            raise ValueError("a search needs units, positive costs and 0 <= low <= high")
        if self.low * sum(self.costs) > self.budget:
            raise ValueError(f"the lowest levels cost {self.low * sum(self.costs)}, above the budget of {self.budget}")

    def left(self, levels: Sequence[int]) -> int:
        """What the budget still holds; negative beyond it."""
        return self.budget - sum(cost * level for cost, level in zip(self.costs, levels, strict=True))

    def holds(self, levels: Sequence[int]) -> bool:
        """Whether a vector is in the space: within its bounds, within the budget, and full."""
        left = self.left(levels)
        return (
            all(self.low <= level <= self.high for level in levels)
            and left >= 0
            and all(level == self.high or cost > left for cost, level in zip(self.costs, levels, strict=True))
        )

    def repaired(self, levels: Sequence[int], priority: Sequence[float]) -> Levels:
        """The vector brought into the space: units of low priority fall, then those of high priority rise.

        One level each in turn; of units with one priority the earlier one rises first and falls last.
        """
        found = [min(max(level, self.low), self.high) for level in levels]
        order = sorted(range(len(found)), key=lambda unit: (-priority[unit], unit))
        left = self.left(found)
        while left < 0:
            for unit in reversed(order):
                if left < 0 and found[unit] > self.low:
                    found[unit] -= 1
                    left += self.costs[unit]
        while fitting := [unit for unit in order if found[unit] < self.high and self.costs[unit] <= left]:
            for unit in fitting:
                if self.costs[unit] <= left:
                    found[unit] += 1
                    left -= self.costs[unit]
        return tuple(found)

    def rounded(self, wishes: Sequence[float], priority: Sequence[float]) -> Levels:
        """Real levels to integers: whole parts, and what is left to the largest remainders, then by priority."""
        clipped = [min(max(wish, float(self.low)), float(self.high)) for wish in wishes]
        whole = [math.floor(wish) for wish in clipped]
        order = sorted(range(len(whole)), key=lambda unit: (whole[unit] - clipped[unit], -priority[unit], unit))
        left = self.left(whole)
        for unit in order:
            if clipped[unit] > whole[unit] and self.costs[unit] <= left:
                whole[unit] += 1
                left -= self.costs[unit]
        return self.repaired(whole, priority)

    def uniform(self, priority: Sequence[float]) -> Levels:
        """The same share for every unit, as nearly as integers allow."""
        return self.rounded([self.budget / sum(self.costs)] * len(self.costs), priority)

    def mutated(self, levels: Levels, moves: int, random: Random, priority: Sequence[float]) -> Levels:
        """So many times, one unit falls a level and another one rises."""
        found = list(levels)
        for _ in range(moves):
            falling = [unit for unit, level in enumerate(found) if level > self.low]
            if not falling:
                break
            down = random.choice(falling)
            rising = [unit for unit, level in enumerate(found) if level < self.high and unit != down]
            if not rising:
                break
            found[down] -= 1
            found[random.choice(rising)] += 1
        return self.repaired(found, priority)

    def crossed(self, first: Levels, second: Levels, random: Random, priority: Sequence[float]) -> Levels:
        """One stretch of units as in the second vector, the others as in the first: crossover at one or two points."""
        units = len(first)
        start = random.choice((0, random.randrange(units)))
        end = random.randrange(start, units) + 1
        return self.repaired((*first[:start], *second[start:end], *first[end:]), priority)


def first_population(
    space: Space, sensitivity: Sequence[float] | None, size: int, reach: float, random: Random, scale: str
) -> list[Levels]:
    """The vectors that a search begins with: uniform first, then half of them in proportion to the sensitivities.

    ``level_u = mean + a * r_u``, with r the ranks of the sensitivities per weight, or their logarithms, scaled to
    [-1, 1] around their mean, and a from 0 to ``reach``. The other half are those after 1 to units / 4 random paired
    moves. None: uniform levels, moved at random.
    """
    units = len(space.costs)
    priority = list(sensitivity) if sensitivity is not None else [0.0] * units
    mean = space.budget / sum(space.costs)
    found = dict.fromkeys([space.uniform(priority)])
    if sensitivity is not None:
        relative = _relative(sensitivity, scale)
        steps = size // 2
        for step in range(1, steps + 1):
            amplitude = reach * step / steps
            found.setdefault(space.rounded([mean + amplitude * r for r in relative], priority))
    begun = list(found)
    for _ in range(20 * size):
        if len(found) >= size:
            break
        moves = random.randint(1, max(1, units // 4))
        found.setdefault(space.mutated(random.choice(begun), moves, random, priority))
    return list(found)


def _relative(sensitivity: Sequence[float], scale: str) -> list[float]:
    if scale == "rank":
        order = sorted(range(len(sensitivity)), key=lambda unit: (sensitivity[unit], unit))
        values = [0.0] * len(order)
        for place, unit in enumerate(order):
            values[unit] = float(place)
    else:
        least = min((value for value in sensitivity if value > 0), default=1.0)
        values = [math.log(max(value, least)) for value in sensitivity]
    mean = math.fsum(values) / len(values)
    widest = max(abs(value - mean) for value in values)
    return [(value - mean) / widest if widest > 0 else 0.0 for value in values]
