"""The search: generations of vectors, judged in stages, of which the best have offspring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ..options import MspOptions
from .space import Levels, Space

KEPT_PER_STAGE = 4
"""One in so many of the candidates of a stage goes on to the next, which judges by more tokens."""
CROSSOVER, MUTATION, MOST_MOVES, TOURNAMENT = 0.5, 0.9, 3, 2
TRIES_PER_CHILD = 50

Judge = Callable[[Sequence[Levels], int], Sequence[float]]
"""``judge(vectors, stage) -> losses``, the lower the better; not finite: as bad as can be."""


@dataclass(frozen=True)
class Candidate:
    """A vector, and its loss in every stage that it reached."""

    levels: Levels
    losses: tuple[float, ...]


Generation = tuple[Candidate, ...]


@dataclass(frozen=True)
class Found:
    """The best vectors of a search, best first, which have offspring, and the uniform one.

    ``evaluations``: how often a vector was judged by the tokens of a stage.
    """

    parents: tuple[Candidate, ...]
    uniform: Candidate
    generations: int
    evaluations: int

    @property
    def best(self) -> Candidate:
        """The vector of least loss in the last stage."""
        return self.parents[0]


def evolve(
    space: Space,
    first: Sequence[Levels],
    priority: Sequence[float],
    judge: Judge,
    options: MspOptions,
    seed: object,
    done: Sequence[Generation] = (),
    on_generation: Callable[[Generation, Found], None] | None = None,
    on_parents: Callable[[Sequence[Levels]], None] | None = None,
) -> Found:
    """Improve on the vectors ``first``, of which the first is the uniform one, which reaches the last stage always.

    Every generation draws from a generator of its own, so a search goes on from the generations that are ``done`` as
    if it had never stopped. ``on_generation`` is called with every new one; ``on_parents`` with the vectors that the
    next one may descend from. The search ends after ``options.generations``, or when the best has not changed for
    ``options.patience`` of them, or when no new vector is found.
    """
    stages, uniform = len(options.stages), first[0]
    finalists: dict[Levels, Candidate] = {}
    seen: set[Levels] = set()
    evaluations = stale = 0
    parents: list[Candidate] = []
    found: Found | None = None
    for number in range(options.generations + 1):
        if number < len(done):
            generation = done[number]
        else:
            random = Random(f"{seed} {number}")
            children = first if number == 0 else list(_offspring(space, parents, priority, options, seen, random))
            generation = _staged(children, judge, stages, uniform)
        if not generation:
            break
        seen.update(candidate.levels for candidate in generation)
        evaluations += sum(len(candidate.losses) for candidate in generation)
        finalists |= {candidate.levels: candidate for candidate in generation if len(candidate.losses) == stages}
        parents = _best(finalists.values(), options.parents)
        stale = stale + 1 if found is not None and parents[0].losses == found.best.losses else 0
        found = Found(tuple(parents), finalists[uniform], number, evaluations)
        if on_generation is not None and number >= len(done):
            on_generation(generation, found)
        if on_parents is not None:
            on_parents([candidate.levels for candidate in parents])
        if stale >= options.patience:
            break
    assert found is not None
    return found


def _staged(children: Sequence[Levels], judge: Judge, stages: int, uniform: Levels) -> Generation:
    """Judge all in the first stage, and one in ``KEPT_PER_STAGE`` of them in the next, and so on."""
    losses: dict[Levels, list[float]] = {levels: [] for levels in children}
    staying = list(children)
    for stage in range(stages):
        if not staying:
            break
        for levels, loss in zip(staying, judge(staying, stage), strict=True):
            losses[levels].append(loss if math.isfinite(loss) else math.inf)
        ranked = sorted(staying, key=lambda levels: losses[levels][-1])
        staying = ranked[: max(1, math.ceil(len(ranked) / KEPT_PER_STAGE))]
        if uniform in losses and uniform not in staying:
            staying.append(uniform)
    return tuple(Candidate(levels, tuple(values)) for levels, values in losses.items())


def _offspring(
    space: Space,
    parents: Sequence[Candidate],
    priority: Sequence[float],
    options: MspOptions,
    seen: set[Levels],
    random: Random,
) -> Iterator[Levels]:
    """New vectors: chosen by tournament, crossed with one another or not, moved or not, repaired."""
    born: set[Levels] = set()
    for _ in range(TRIES_PER_CHILD * options.offspring):
        if len(born) == options.offspring:
            return
        child = _winner(parents, random).levels
        if random.random() < CROSSOVER:
            child = space.crossed(child, _winner(parents, random).levels, random, priority)
        if random.random() < MUTATION:
            moves = min(random.randint(1, MOST_MOVES), random.randint(1, MOST_MOVES))
            child = space.mutated(child, moves, random, priority)
        if child not in seen and child not in born:
            born.add(child)
            yield child


def _winner(parents: Sequence[Candidate], random: Random) -> Candidate:
    rivals = random.choices(range(len(parents)), k=TOURNAMENT)
    return parents[min(rivals)]


def _best(candidates: Iterable[Candidate], count: int) -> list[Candidate]:
    """Those of least loss in the last stage, best first; of equal ones the vector that is smaller as a tuple."""
    return sorted(candidates, key=lambda candidate: (candidate.losses[-1], candidate.levels))[:count]
