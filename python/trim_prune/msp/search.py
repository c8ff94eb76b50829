"""The whole of MSP: sensitivities, ranks, evolution, and the files that tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from ..calibration.statistics import Collector
from ..dense import DenseModel
from ..events import to_json
from ..models.device import on_device, rest_on_device
from ..models.discover import Linear
from .evolution import Found, Generation, evolve
from .fisher import FisherSums, fisher_sums
from .fitness import Fitness
from .journal import Journal, generation_entry, generation_of, subject_digest
from .levels import Scale, make_space, rank_linear, rank_needs, search_score, sparsities_of
from .plot import plot_search
from .space import Space, first_population

if TYPE_CHECKING:
    from ..budgets.layers.base import LayerRequest
    from ..recipe import Recipe

HISTORY_FILE, PLOT_FILE = "search.jsonl", "search.svg"
UNREAD = {
    *("preset", "samples", "batch_size", "device", "strict", "recapture", "correction", "damping", "permute", "layers"),
    *("solver", "sparsegpt", "swaps", "alps"),
}
HOW_LONG = {"generations", "patience"}
"""Of the recipe, what changes nothing in a search that has the same tokens; and of its options, what only ends it."""


def search(request: LayerRequest) -> Mapping[Linear, float]:
    """The sparsity of every linear, as the best vector has it.

    A search of the same model, tokens and options goes on where an earlier one stopped, or is taken as it is.
    """
    dense, recipe = request.dense, request.recipe
    assert dense is not None
    units = list(request.blocks.values()) if recipe.msp.unit == "block" else [[linear] for linear in request.linears]
    space, scale = make_space(request, units)
    with rest_on_device(dense.module, dense.blocks, dense.device):
        sensitivity = _sensitivity(recipe, dense, units)
        with _journal(dense, "msp", _facts(recipe), dense.calibration.held_out) as journal:
            done = [generation_of(entry) for entry in journal.entries]
            found = _evolved(request, units, space, scale, sensitivity, done, journal)
    if dense.folder is not None:
        history = journal.entries[: found.generations + 1]
        lines = [to_json(entry) for entry in ({"sensitivity": sensitivity}, *history)]
        (dense.folder / HISTORY_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if find_spec("matplotlib") is None:
            dense.events.warn(f"{PLOT_FILE} is not written without matplotlib: pip install 'trim-kernels[plot]'")
        else:
            generations = [generation_of(entry) for entry in history]
            plot_search(generations, found, scale, sensitivity, recipe.msp.fitness, dense.folder / PLOT_FILE)
    return sparsities_of(found.best.levels, scale, units)


def _facts(recipe: Recipe) -> dict[str, object]:
    """What of the recipe decides how a search goes."""
    facts = recipe.model_dump(mode="json", exclude=UNREAD)
    return facts | {"score": search_score(recipe), "msp": recipe.msp.model_dump(mode="json", exclude=HOW_LONG)}


@contextmanager
def _journal(dense: DenseModel, name: str, facts: object, *tokens: torch.Tensor) -> Iterator[Journal]:
    ids = [part.tolist() for part in (dense.calibration.token_ids, *tokens)]
    journal = Journal(f"{name}-{subject_digest(dense.module, facts, ids)[:32]}.jsonl")
    try:
        if journal.problem is not None:
            dense.events.warn(f"if this search is interrupted it has to begin anew: {journal.problem}")
        yield journal
    finally:
        journal.close()


def _sensitivity(recipe: Recipe, dense: DenseModel, units: Sequence[Sequence[Linear]]) -> list[float] | None:
    """Per weight of each unit; None if levels are to begin at random."""
    if recipe.msp.sensitivity == "none":
        return None
    token_ids = dense.calibration.token_ids[: recipe.msp.sequences]
    with _journal(dense, "fisher", len(token_ids)) as journal, dense.timings.phase("sensitivity"):

        def note(sums: FisherSums) -> None:
            journal.add(vars(sums))
            dense.events.emit("sensitivity", sequence=sums.sequences, sequences=len(token_ids))

        done = FisherSums(**journal.entries[-1]) if journal.entries else None
        sums = fisher_sums(dense.capture, token_ids, dense.device, done=done, on_sequence=note)
    linears = [linear for block in dense.blocks for linear in block.linears]
    values = sums.trace if recipe.msp.sensitivity == "fisher" else sums.weighted
    by_linear = dict(zip(linears, values, strict=True))
    return [sum(by_linear[linear] for linear in unit) / sum(linear.size for linear in unit) for unit in units]


def _evolved(
    request: LayerRequest,
    units: Sequence[Sequence[Linear]],
    space: Space,
    scale: Scale,
    sensitivity: Sequence[float] | None,
    done: Sequence[Generation],
    journal: Journal,
) -> Found:
    dense, recipe = request.dense, request.recipe
    assert dense is not None
    options = recipe.msp
    with dense.timings.phase("ranks"):
        ranks = _ranks(dense, recipe, scale)
    with dense.timings.phase("search"):
        fitness = Fitness(dense, units, ranks, options.stages, kl=options.fitness == "kl")
        begun = perf_counter()

        def note(generation: Generation, found: Found) -> None:
            nonlocal begun
            seconds, begun = perf_counter() - begun, perf_counter()
            journal.add(generation_entry(generation, found.generations, seconds))
            dense.events.emit(
                "search",
                generation=found.generations,
                generations=options.generations,
                best=found.best.losses[-1],
                uniform=found.uniform.losses[-1],
                fitness=options.fitness,
                evaluations=found.evaluations,
                seconds=seconds,
            )

        priority = sensitivity if sensitivity is not None else [0.0] * len(units)
        first = first_population(
            space, sensitivity, options.population, options.reach, Random(recipe.seed), options.scale
        )
        return evolve(space, first, priority, fitness, options, recipe.seed, done, note, fitness.retain)


def _ranks(dense: DenseModel, recipe: Recipe, scale: Scale) -> dict[Linear, torch.Tensor]:
    """The ranks of all weights, by the inputs that the dense model gives its linears."""
    needs, ranks, walked = rank_needs(recipe), {}, dense.states.twin()
    for block in dense.blocks:
        collector = Collector(block.linears, needs, recipe.tokens_per_sequence, partial(dense.timings.phase, "ranks"))
        with on_device(block.module, dense.device):
            walked.propagate(block, collector)
            for linear in block.linears:
                ranks[linear] = rank_linear(recipe, scale, linear, collector.statistics(linear))
    return ranks
