"""The whole of MSP: sensitivities, evolution in rounds, and the files that tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from ..dense import DenseModel
from ..events import to_json
from ..fallbacks import counted
from ..models.device import rest_on_device
from ..models.discover import Linear
from ..models.staging import write_errors
from .fisher import FisherSums, fisher_sums
from .journal import SearchJournal, subject_digest
from .levels import make_space, search_score, sparsities_of, why_one_vector
from .plot import plot_search
from .rounds import Rounds

if TYPE_CHECKING:
    from ..budgets.layers.base import LayerRequest
    from ..recipe import Recipe

HISTORY_FILE, PLOT_FILE = "search.jsonl", "search.svg"
UNREAD = {
    *("preset", "samples", "batch_size", "device", "strict", "recapture", "correction", "permute", "layers"),
    *("solver", "sparsegpt", "swaps", "alps"),
}
HOW_LONG = {"rounds"}
"""Of the recipe, what changes nothing in a search that has the same tokens; and of its options, what only ends it."""


def search(request: LayerRequest) -> Mapping[Linear, float]:
    """The sparsity of every linear, as the best vector has it.

    A search of the same model, tokens, options and code goes on where an earlier one stopped, or is taken as it is.
    """
    dense, recipe = request.dense, request.recipe
    assert dense is not None
    units = list(request.blocks.values()) if recipe.msp.unit == "block" else [[linear] for linear in request.linears]
    space, scale = make_space(request, units)
    only = space.uniform([0.0] * len(units))
    if set(only) in ({space.low}, {space.high}):
        dense.events.warn(f"nothing to search: {why_one_vector(request)}")
        return sparsities_of(only, scale, units)
    with rest_on_device(dense.module, dense.blocks, dense.device):
        sensitivity = _sensitivity(recipe, dense, units)
        with (
            _journal(dense, "msp", _facts(recipe), dense.calibration.held_out) as journal,
            dense.timings.phase("evolution"),
        ):
            rounds = Rounds(dense, recipe, units, space, scale, sensitivity, journal)
            best = rounds.best()
            fallen = rounds.fallbacks
    if fallen:
        dense.events.warn(f"for layers 'msp', {counted(fallen.values(), len(request.linears))}")
    if dense.folder is not None:
        head = {"sensitivity": sensitivity} | ({"fallbacks": fallen} if fallen else {})
        lines = [to_json(entry) for entry in (head, *rounds.history)]
        with write_errors(dense.folder):
            (dense.folder / HISTORY_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if find_spec("matplotlib") is None:
            dense.events.warn(f"{PLOT_FILE} is not written without matplotlib: pip install 'trim-kernels[plot]'")
        else:
            plot_search(rounds.history, best, scale, sensitivity, recipe.msp.fitness, dense.folder / PLOT_FILE)
    return sparsities_of(best, scale, units)


def _facts(recipe: Recipe) -> dict[str, object]:
    """What of the recipe decides how a search goes."""
    facts = recipe.model_dump(mode="json", exclude=UNREAD)
    return facts | {"score": search_score(recipe), "msp": recipe.msp.model_dump(mode="json", exclude=HOW_LONG)}


@contextmanager
def _journal(dense: DenseModel, name: str, facts: object, *tokens: torch.Tensor) -> Iterator[SearchJournal]:
    # Here: it needs recipes, which need this module.
    from ..runs.fingerprint import code

    ids = [part.tolist() for part in (dense.calibration.token_ids, *tokens)]
    subject = subject_digest(dense.module, dense.blocks, code(), dense.device.type, facts, ids)
    journal = SearchJournal(f"{name}-{subject[:32]}.jsonl")
    try:
        yield journal
    finally:
        journal.close()
        if journal.problem is not None:
            dense.events.warn(f"what this search found is not kept for another run: {journal.problem}")


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
