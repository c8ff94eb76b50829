"""The whole of MSP: sensitivities, ranks, evolution, and the files that tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from ..calibration.statistics import Collector
from ..dense import DenseModel
from ..models.device import on_device, rest_on_device
from ..models.discover import Linear
from .evolution import Found, Generation, evolve
from .fisher import FisherSums, fisher_sums
from .fitness import Fitness
from .journal import Journal, subject_digest
from .levels import Scale, make_space, rank_linear, rank_needs, search_score, sparsities_of
from .plot import plot_search
from .space import Space, first_population

if TYPE_CHECKING:
    from ..budgets.layers.base import LayerRequest
    from ..recipe import Recipe

JOURNAL_FILE, PLOT_FILE = "search.jsonl", "search.svg"
UNREAD = {
    *("preset", "samples", "batch_size", "device", "strict", "recapture", "correction", "damping", "permute", "layers"),
    *("solver", "sparsegpt", "swaps", "alps"),
}
"""Of the recipe, what changes nothing in a search that has the same tokens."""


def search(request: LayerRequest) -> Mapping[Linear, float]:
    """The sparsity of every linear, as the best vector has it.

    A search of the same model, tokens and options goes on where an earlier one stopped, or is taken as it is.
    """
    dense, recipe = request.dense, request.recipe
    assert dense is not None
    units = list(request.blocks.values()) if recipe.msp.unit == "block" else [[linear] for linear in request.linears]
    space, scale = make_space(request, units)
    facts = recipe.model_dump(mode="json", exclude=UNREAD) | {"score": search_score(recipe)}
    journal = Journal(
        subject_digest(dense.module, facts, dense.calibration.token_ids.tolist(), dense.calibration.held_out.tolist())
    )
    try:
        if journal.problem is not None:
            dense.events.warn(f"if this search is interrupted it has to begin anew: {journal.problem}")
        with rest_on_device(dense.module, dense.blocks, dense.device):
            sensitivity = _sensitivity(recipe, dense, units, journal)
            found = _evolved(request, units, space, scale, sensitivity, journal)
    finally:
        journal.close()
    if dense.folder is not None:
        (dense.folder / JOURNAL_FILE).write_text("\n".join(journal.lines) + "\n", encoding="utf-8")
        if find_spec("matplotlib") is None:
            dense.events.warn(f"{PLOT_FILE} is not written without matplotlib: pip install 'trim-kernels[plot]'")
        else:
            plot_search(journal.generations, found, scale, sensitivity, recipe.msp.fitness, dense.folder / PLOT_FILE)
    return sparsities_of(found.best.levels, scale, units)


def _sensitivity(
    recipe: Recipe, dense: DenseModel, units: Sequence[Sequence[Linear]], journal: Journal
) -> list[float] | None:
    """Per weight of each unit; None if levels are to begin at random."""
    if recipe.msp.sensitivity == "none":
        return None
    token_ids = dense.calibration.token_ids[: recipe.msp.sequences]

    def note(sums: FisherSums) -> None:
        journal.add_fisher(sums)
        dense.events.emit("sensitivity", sequence=sums.sequences, sequences=len(token_ids))

    with dense.timings.phase("sensitivity"):
        sums = fisher_sums(dense.capture, token_ids, dense.device, done=journal.fisher, on_sequence=note)
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
            journal.add_generation(generation, seconds)
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
        return evolve(
            space, first, priority, fitness, options, recipe.seed, tuple(journal.generations), note, fitness.retain
        )


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
