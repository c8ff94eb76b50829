"""What was evaluated, as tables: dense beside pruned where both were measured by one protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..evaluation.protocol import label, shown
from .words import size

TITLES = {"perplexity": "Perplexity (lower is better)", "task": "Zero-shot", "speed": "Speed and memory"}
FIGURES = {
    "perplexity": "perplexity",
    "prefill": "prefill, tokens per second",
    "decode": "decode, tokens per second",
    "parameter_bytes": "parameters in memory",
    "peak_bytes": "peak memory while it ran",
}


@dataclass(frozen=True)
class Evaluated:
    """One table. ``columns``: heading, and whether its values are numbers."""

    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[str]]
    protocol: str
    """In words, and after it which models were measured."""


def evaluated_tables(evaluations: Sequence[Mapping[str, Any]]) -> list[Evaluated]:
    """One table for each kind and protocol, in the order in which they were first measured."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        key = json.dumps([evaluation["kind"], evaluation["protocol"]], sort_keys=True)
        groups.setdefault(key, []).append(evaluation)
    return [_table(group) for group in groups.values()]


def perplexities(evaluations: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Of the dense and of the pruned model, by the protocol measured last; None where it was not."""
    measured = [evaluation for evaluation in evaluations if evaluation["kind"] == "perplexity"]
    if not measured:
        return None, None
    same = {x["of"]: x["results"]["perplexity"] for x in measured if x["protocol"] == measured[-1]["protocol"]}
    return same.get("dense"), same.get("pruned")


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """Every value of a protocol with its name."""
    return ", ".join(f"{label(name)} {shown(name, value)}" for name, value in protocol.items() if value is not None)


def figure_words(name: str, value: Any) -> str:
    """A measured value with as many digits as it deserves."""
    if value is None:
        return "not measured"
    if name.endswith("bytes"):
        return size(value)
    if name == "perplexity":
        return f"{value:.2f}"
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def compared_table(evaluation: Mapping[str, Any]) -> Evaluated:
    """One table of several models that were measured by one protocol; results by the name of the model."""
    found: Mapping[str, Mapping[str, Any]] = evaluation["results"]
    names = list(dict.fromkeys(name for results in found.values() for name in results))
    title, task = TITLES[evaluation["kind"]], evaluation["protocol"].get("task")
    return Evaluated(
        title if task is None else f"{title}: {task}",
        [("figure", False), *((model, True) for model in found)],
        [[FIGURES.get(name, name), *(figure_words(name, x.get(name)) for x in found.values())] for name in names],
        f"Protocol: {protocol_words(evaluation['protocol'])}.",
    )


def _table(group: Sequence[Mapping[str, Any]]) -> Evaluated:
    found = {evaluation["of"]: evaluation for evaluation in group}
    ordered = {place: found[place] for place in ("dense", "pruned") if place in found}
    table = compared_table({**group[0], "results": {place: x["results"] for place, x in ordered.items()}})
    models = ", ".join(f"{place} {x['model']}" for place, x in ordered.items() if "model" in x)
    return replace(table, protocol=f"{table.protocol} Measured: {models}.") if models else table
