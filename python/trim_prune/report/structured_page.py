"""What the page of a structured run has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..describe import ranges
from . import structured_plots as plots
from .evaluated import perplexities
from .run import Run
from .structured import KINDS, kept_of, kept_verb, totals
from .structured_words import structured_title
from .words import duration, peak

PART_COLUMNS = [
    ("part", False),
    ("units that stay", True),
    ("share", True),
    ("which", True),
    ("repair", True),
    ("output error", True),
    ("time, s", True),
]


def structured_values(run: Run, derived: Mapping[str, Any], safe: Any) -> dict[str, Any]:
    """For the template ``structured.html``; ``safe``: marks a figure as one that is not escaped."""
    facts = run.facts
    repaired = any(part["error"] is not None for part in facts["parts"])
    return {
        "cards": _cards(run, derived),
        "title": structured_title(facts),
        "plots": {
            "kept": safe(plots.kept_plot(derived)),
            "repair": safe(plots.repair_plot(derived)) if repaired else None,
            "cosines": safe(plots.cosine_plot(facts["cosines"])) if facts["cosines"] else None,
        },
        "check_words": check_words(facts),
        "fallback_of": "part",
        "fallbacks": [[_part(part), "; ".join(part["steps"])] for part in facts["parts"] if part["steps"]],
        "part_columns": PART_COLUMNS,
        "part_rows": [_row(part) for part in facts["parts"]],
    }


def check_words(facts: Mapping[str, Any]) -> str:
    """What a fresh process found in the written folder."""
    check = facts["check"]
    if check is None:
        return "No fresh process has loaded the folder."
    return (
        f"A fresh process loaded the folder by {check['loaded_by']}: {check['parameters']} parameters, logits equal "
        f"within {check['difference']:.1e} of the largest to those in memory."
    )


def _cards(run: Run, derived: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    facts, parameters, speed = run.facts, run.facts["parameters"], run.facts["speed"]
    dense, pruned = perplexities(run.evaluations)
    asked, verb = parameters["target"], kept_verb(facts)
    before = "dense not measured" if dense is None else f"dense {dense:.2f}"
    cards = [
        (
            f"of the parameters {verb}",
            "—" if parameters["share"] is None else f"{parameters['share']:.4%}",
            kept_of(parameters) + ("" if asked is None else f", asked: {asked}"),
        )
    ]
    for kind, units in KINDS.items():
        kept, whole = totals(derived, kind)
        if whole:
            cards.append((f"of the {units} {verb}", f"{kept / whole:.2%}", f"{kept} of {whole}"))
    return [
        *cards,
        (
            "decoding speed",
            f"{speed['pruned'] / speed['dense']:.2f} times",
            f"{speed['dense']:.2f} and {speed['pruned']:.2f} tokens per second on {speed['device']}",
        ),
        ("perplexity", "—" if pruned is None else f"{pruned:.2f}", "not measured" if pruned is None else before),
        ("time", duration(sum(facts["seconds"].values())), f"on {facts['machine']['device']}"),
        ("peak memory", peak(facts["memory"]["peak"]), "resident, of the whole process"),
    ]


def _part(part: Mapping[str, Any]) -> str:
    return f"block {part['block']}, {part['kind']}"


def _row(part: Mapping[str, Any]) -> list[str]:
    before, after = part["error"], part["repaired_error"]
    return [
        _part(part),
        f"{len(part['kept'])} of {part['units']} {KINDS.get(part['kind'], 'units')}",
        f"{len(part['kept']) / part['units']:.2%}",
        ranges(part["kept"]) if part["kind"] == "attention" else "in run.json",
        part["repair"],
        "—" if before is None or after is None else f"{before:.4f} → {after:.4f}",
        f"{part['seconds']:.2f}",
    ]
