"""The rounds of a search: evolution by given masks, then new masks, as the best vector would get them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..dense import DenseModel
from ..fallbacks import refuse_fallback
from ..models.discover import Linear
from .evolution import Found, Generation, evolve
from .fitness import Fitness, held_out_stages
from .journal import SearchJournal, finite_or_infinite, generation_entry, generation_of
from .levels import Scale
from .ranks import measure_ranks
from .space import Levels, Space, first_population

if TYPE_CHECKING:
    from ..recipe import Recipe


class Rounds:
    """A search in rounds.

    The first round judges vectors by masks of the dense model's statistics. Evolution soon makes the most of just these
    masks, and the sequential prune, which sees the inputs that pruned blocks give, has others: a better vector by the
    ones may be a worse one by the others. So each later round judges by masks of the sequential prune of the best
    vector before it, and begins with that round's parents. The result is, of the best vectors of all rounds, the one
    that is best by masks of its own.

    "Its own" means a prune by the search's score and the row budget. Where the recipe also changes weights (SparseGPT,
    a correction), reorders columns or captures inputs again within a block, that is near the truth and no more.
    """

    def __init__(
        self,
        dense: DenseModel,
        recipe: Recipe,
        units: Sequence[Sequence[Linear]],
        space: Space,
        scale: Scale,
        sensitivity: Sequence[float] | None,
        journal: SearchJournal,
    ) -> None:
        self.dense, self.recipe, self.units, self.space, self.scale = dense, recipe, units, space, scale
        self.sensitivity, self.journal = sensitivity, journal
        self.history: list[Mapping[str, Any]] = []
        """The entries of the journal that tell how the search went."""
        self._stages = cache(lambda: held_out_stages(dense, recipe.msp.stages, recipe.msp.fitness == "kl"))
        self._evaluations = 0

    @property
    def fallbacks(self) -> dict[str, tuple[str, ...]]:
        """The steps of linears whose ranks needed a fallback, in any round, also of an earlier process."""
        found = [entry["fallbacks"] for entry in self.journal.entries if "fallbacks" in entry]
        return {name: tuple(steps) for entry in found for name, steps in entry.items()}

    def best(self) -> Levels:
        """Run the rounds, or what is missing of them."""
        self._refuse_fallbacks()
        options, recipe = self.recipe.msp, self.recipe
        first = first_population(
            self.space, self.sensitivity, options.population, options.reach, Random(recipe.seed), options.scale
        )
        uniform = first[0]
        losses: dict[Levels, float] = {}
        judge = _Judge(partial(self._fitness, 0, None))
        for number in range(options.rounds):
            found = self._round(number, first, judge)
            if options.rounds == 1:
                return found.best.levels
            if found.best.levels in losses:
                break
            judge = _Judge(partial(self._fitness, number + 1, found.best.levels))
            losses[found.best.levels] = self._loss(number, found.best.levels, judge)
            first = list(dict.fromkeys([uniform, *(parent.levels for parent in found.parents)]))
        return min(losses, key=lambda levels: losses[levels])

    def _round(self, number: int, first: Sequence[Levels], judge: _Judge) -> Found:
        entries = self._entries(number, "candidates")
        self.history += entries
        begun, before = perf_counter(), self._evaluations

        def note(generation: Generation, found: Found) -> None:
            nonlocal begun
            seconds, begun = perf_counter() - begun, perf_counter()
            entry = {"round": number} | generation_entry(generation, found.generations, seconds)
            self._add(entry)
            self.dense.events.emit(
                "search",
                round=number,
                rounds=self.recipe.msp.rounds,
                generation=found.generations,
                generations=self.recipe.msp.generations,
                best=found.best.losses[-1],
                uniform=found.uniform.losses[-1],
                fitness=self.recipe.msp.fitness,
                evaluations=before + found.evaluations,
                seconds=seconds,
            )

        priority = self.sensitivity if self.sensitivity is not None else [0.0] * len(self.units)
        found = evolve(
            self.space,
            first,
            priority,
            judge,
            self.recipe.msp,
            f"{self.recipe.seed} {number}",
            [generation_of(entry) for entry in entries],
            note,
            judge.retain,
        )
        self._evaluations += found.evaluations
        return found

    def _loss(self, number: int, levels: Levels, judge: _Judge) -> float:
        """That of a vector by the masks that it gets itself."""
        known = self._entries(number, "loss")
        if known:
            self.history += known
            return finite_or_infinite(known[0]["loss"])
        loss = finite_or_infinite([judge([levels], stage)[0] for stage in range(len(self.recipe.msp.stages))][-1])
        self._add({"round": number, "levels": levels, "loss": loss})
        options = self.recipe.msp
        self.dense.events.emit("round", round=number, rounds=options.rounds, loss=loss, fitness=options.fitness)
        return loss

    def _fitness(self, number: int, levels: Levels | None) -> Fitness:
        """By the masks of the round of that number."""
        by_linear = (
            {linear: level for level, unit in zip(levels, self.units, strict=True) for linear in unit}
            if levels is not None
            else None
        )
        with self.dense.timings.phase("ranks"):
            ranks, fallen = measure_ranks(self.dense, self.recipe, self.scale, by_linear)
        if fallen and not self._entries(number, "fallbacks"):
            self.journal.add({"round": number, "fallbacks": fallen})
            self._refuse_fallbacks()
        return Fitness(self.dense, self.units, ranks, self._stages())

    def _refuse_fallbacks(self) -> None:
        fallen = self.fallbacks
        for unit in self.units:
            for linear in unit:
                refuse_fallback(self.recipe, linear, fallen.get(linear.name, ()))

    def _entries(self, number: int, key: str) -> list[Mapping[str, Any]]:
        return [entry for entry in self.journal.entries if entry["round"] == number and key in entry]

    def _add(self, entry: dict[str, Any]) -> None:
        self.journal.add(entry)
        self.history.append(entry)


class _Judge:
    """Losses by masks that are not measured before they are needed: of a finished round they never are."""

    def __init__(self, make: Callable[[], Fitness]) -> None:
        self._make = make
        self._fitness: Fitness | None = None

    def __call__(self, candidates: Sequence[Levels], stage: int) -> Sequence[float]:
        if self._fitness is None:
            self._fitness = self._make()
        return self._fitness(candidates, stage)

    def retain(self, candidates: Iterable[Levels]) -> None:
        if self._fitness is not None:
            self._fitness.retain(candidates)
