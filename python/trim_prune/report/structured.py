"""report.json of a structured prune: what every block kept, found in run.json, and bytes of the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .files import model_sizes
from .run import Run

KINDS = {"attention": "KV groups", "feed-forward": "channels"}
"""The parts of a block, and what their units are called."""


def derive_structured(run: Run) -> dict[str, Any]:
    """As plain values: :func:`structured_blocks`, and bytes of the files."""
    return {"blocks": structured_blocks(run), "bytes": model_sizes(run.folder)}


def structured_blocks(run: Run) -> list[dict[str, Any]]:
    """Of every part of every block, also of those that keep all, how many units stay of how many."""
    known = {(part["block"], part["kind"]): part for part in run.facts["parts"]}
    blocks = []
    for number, units in enumerate(_units(run.facts)):
        parts = {}
        for kind, count in units.items():
            part = known.get((number, kind), {})
            parts[kind] = {
                "units": count,
                "kept": len(part["kept"]) if part else count,
                "error": part.get("error"),
                "repaired_error": part.get("repaired_error"),
            }
        blocks.append({"block": number, "parts": parts})
    return blocks


def kept_verb(facts: Mapping[str, Any]) -> str:
    """What is said of the parameters that are kept."""
    return "are not zero" if facts["recipe"]["mode"] == "masked" else "stay"


def kept_of(parameters: Mapping[str, Any]) -> str:
    """How many parameters are kept, of how many; a dash where an earlier version did not note it."""
    return f"{'—' if parameters['kept'] is None else parameters['kept']} of {parameters['dense']}"


def totals(derived: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """How many units of a kind stay in all blocks together, of how many."""
    parts = [block["parts"][kind] for block in derived["blocks"] if kind in block["parts"]]
    return sum(part["kept"] for part in parts), sum(part["units"] for part in parts)


def _units(facts: Mapping[str, Any]) -> list[dict[str, int]]:
    """How many units the parts of each block had."""
    if facts["units"]:
        return list(facts["units"])
    # Earlier versions noted those parts only that lost something; blocks of a model are alike as a rule.
    units = {part["kind"]: part["units"] for part in facts["parts"]}
    blocks = max([len(facts["cosines"] or []), *(part["block"] + 1 for part in facts["parts"])])
    return [units] * blocks
