"""Whether the model that a pruned one is measured against is the one that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..digest import checksum
from ..errors import TrimPruneError
from ..models.discover import find_blocks
from ..run_facts import Facts, known_facts

ROWS = 1024
"""Of the embeddings, that tell two models of one shape apart."""


def refuse_pruned(against: str | Path, run: Facts | None) -> None:
    """Refuse as the dense model one that was pruned itself, unless ``run``, of the pruned one, began with it.

    Only names can tell that: a model may have been moved since.
    """
    own = known_facts(Path(against).expanduser())
    if own is None or (run is not None and own["model"] != run["model"] and _last(run["model"]) == _last(against)):
        return
    raise TrimPruneError(
        "the model to measure against is pruned itself",
        where=str(against),
        expected="the dense model" if run is None else f"the dense model, {run['model']}",
        got=f"a prune of {own['model']}, as its run.json says",
        fix="trim-prune evaluate PRUNED --against DENSE; of two prunes evaluate each, and trim-prune compare them",
    )


def require_dense_model(run: Facts, model: Any, name: str) -> None:
    """Refuse a model that cannot be the one that a run began with: it has another number of weights."""
    if "parts" in run:
        whole, what = run["parameters"]["dense"], "parameters"
        found = sum(parameter.numel() for parameter in model.parameters())
    else:
        whole, what = run["sparsity"]["prunable_weights"], "weights in the linears of its blocks"
        found = sum(linear.size for block in find_blocks(model) for linear in block.linears)
    if found != whole:
        raise TrimPruneError(
            "the model to measure against is not the one that was pruned",
            where=name,
            expected=f"{whole} {what}, as {run['model']} has",
            got=str(found),
            fix="give the model that the run began with",
        )


def embedding_checksum(model: Any) -> str:
    """Of the first rows of the input embeddings, which a prune leaves as they are."""
    return checksum([model.get_input_embeddings().weight.data[:ROWS]])


def _last(model: str | Path) -> str:
    return Path(model).absolute().name
