"""Structured prunes of one model, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..formats.masks import Overlap
from .run import Run, mean_of
from .structured import structured_blocks


def part_name(block: int, kind: str) -> str:
    """What a part is called in tables."""
    return f"block {block}, {kind}"


def part_units(run: Run) -> dict[str, list[int]]:
    """How many units each part had: models of unlike ones are not compared."""
    blocks = structured_blocks(run)
    return {
        part_name(block["block"], kind): [part["units"]] for block in blocks for kind, part in block["parts"].items()
    }


def structured_facts(run: Run) -> dict[str, Any]:
    """What a comparison tells of a run, beside what it tells of any."""
    facts, recipe = run.facts, run.recipe
    return {
        "recipe": {key: recipe[key] for key in ("mode", "layers", "heads", "channels", "repair")},
        "share": facts["parameters"]["share"],
        "parameters": facts["parameters"]["kept"],
        "speed": facts["speed"]["pruned"] / facts["speed"]["dense"],
        "fallbacks": sum(bool(part["steps"]) for part in facts["parts"]),
        "blocks": [
            {
                "block": block["block"],
                **{kind: part["kept"] / part["units"] for kind, part in block["parts"].items()},
                "output_error": mean_of(block["parts"].values(), "repaired_error"),
            }
            for block in structured_blocks(run)
        ],
    }


def unit_overlaps(first: Run, second: Run) -> dict[str, float | None]:
    """By part, the share of the units that either takes out which both take out; None where neither takes any."""
    found: dict[str, float | None] = {}
    ours, theirs = (_gone(run.facts) for run in (first, second))
    for name, (units,) in part_units(first).items():
        a, b = ours.get(name, set()), theirs.get(name, set())
        found[name] = Overlap(units, len(a), len(b), len(a & b)).share
    return found


def _gone(facts: Mapping[str, Any]) -> dict[str, set[int]]:
    return {
        part_name(part["block"], part["kind"]): set(range(part["units"])) - set(part["kept"]) for part in facts["parts"]
    }
