"""Two or more prunes of one model, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..errors import TrimPruneError
from ..evaluation.protocol import differences, shared
from .masks import masks_of_run, matrices
from .overlap import overlaps
from .run import Run, mean_of, read_run, share
from .structured import structured_blocks
from .structured_compare import part_name, part_units, structured_facts, unit_overlaps


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """The facts of some runs as plain values; overlaps are those of each run with the first.

    Raises:
        TrimPruneError: a folder holds no run, or the models are unlike.
    """
    if len(folders) < 2:
        raise TrimPruneError("a comparison needs two folders or more", got=str(len(folders)))
    runs = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    for run in runs[1:]:
        _require_same_model(runs[0], run)
    first, *others = runs
    return {
        "structured": first.structured,
        "notes": _notes(runs),
        "runs": [_facts(run) | (structured_facts(run) if run.structured else _weight_facts(run)) for run in runs],
        "block_of": _block_of(first),
        "overlaps": {run.name: _overlaps(first, run) for run in others},
        **_evaluations(runs),
    }


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.absolute().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _notes(runs: Sequence[Run]) -> list[str]:
    """What speaks against a comparison and does not forbid it: a model may have been moved or renamed."""
    models = list(dict.fromkeys(run.model for run in runs))
    return [f"The models have unlike names: {', '.join(models)}."] if len(models) > 1 else []


def _block_of(run: Run) -> dict[str, int]:
    """The block of each linear or part, by the name that it has in overlaps."""
    if run.structured:
        blocks = structured_blocks(run)
        return {part_name(block["block"], kind): block["block"] for block in blocks for kind in block["parts"]}
    return {linear["name"]: linear["block"] for linear in matrices(masks_of_run(run.folder), run.linears)}


def _overlaps(first: Run, other: Run) -> dict[str, float | None]:
    return unit_overlaps(first, other) if first.structured else overlaps(first.folder, other.folder, first.linears)


def _shapes(run: Run) -> dict[str, list[int]]:
    return part_units(run) if run.structured else {linear["name"]: linear["shape"] for linear in run.linears}


def _require_same_model(first: Run, other: Run) -> None:
    if first.structured != other.structured:
        weights, units = (other, first) if first.structured else (first, other)
        raise TrimPruneError(
            "the runs are of unlike kinds",
            got=f"{units.name} took whole heads and channels, {weights.name} single weights",
            fix="compare runs of one kind; trim-prune evaluate measures both",
        )
    ours, theirs = (_shapes(run) for run in (first, other))
    name = next((name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)), None)
    if name is not None:
        raise TrimPruneError(
            "the runs are of unlike models",
            where=name,
            expected=_shape(ours.get(name), first),
            got=_shape(theirs.get(name), other),
            fix="compare prunes of one model",
        )


def _shape(shape: list[int] | None, run: Run) -> str:
    what = "unit" if run.structured else "linear"
    return f"{f'no such {what}' if shape is None else ' x '.join(map(str, shape))} in {run.name} ({run.model})"


def _facts(run: Run) -> dict[str, Any]:
    """What is told of a run of either kind."""
    return {
        "name": run.name,
        "model": run.model,
        "seconds": run.facts["seconds"],
        "peak_memory": run.facts["memory"]["peak"],
    }


def _weight_facts(run: Run) -> dict[str, Any]:
    facts, recipe = run.facts, run.recipe
    return {
        "recipe": {key: recipe[key] for key in ("score", "layers", "rows", "solver", "pattern", "correction")},
        "sparsity": facts["sparsity"]["of_prunable"],
        "pruned": facts["sparsity"]["pruned"],
        "fallbacks": sum(bool(linear["steps"]) for linear in run.linears),
        "blocks": [
            {
                "block": number,
                "sparsity": share(linears),
                **{key: mean_of(linears, key) for key in ("quality", "output_error")},
            }
            for number, linears in run.blocks()
        ],
    }


def _evaluations(runs: Sequence[Run]) -> dict[str, Any]:
    """What was measured of several by one protocol, and why other perplexities are not compared."""
    measured = {run.name: [x for x in run.evaluations if x["of"] == "pruned"] for run in runs}
    found = shared(measured)
    compared = [group for group in found if group["kind"] == "perplexity"]
    last = {name: [x for x in all_ if x["kind"] == "perplexity"][-1:] for name, all_ in measured.items()}
    protocols = {name: x[0]["protocol"] for name, x in last.items() if x}
    refused = []
    for first, second in combinations(protocols, 2):
        if not any({first, second} <= group["results"].keys() for group in compared):
            unlike = "; ".join(differences(protocols[first], protocols[second]))
            refused.append(f"The perplexities of {first} and {second} are not compared: {unlike}.")
    return {"evaluations": found, "refused": refused}
