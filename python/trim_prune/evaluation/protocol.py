"""A measurement and the protocol that it belongs to: figures of unlike protocols are not compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import TrimPruneError

NAMES_ONLY = ("data",)
"""Parts of a protocol that tell people where its text came from; digests say whether two texts are the same."""


def label(name: str) -> str:
    """What to call a part of a protocol in words."""
    return "BOS rule" if name == "bos" else name.replace("_", " ")


def shown(name: str, value: Any) -> str:
    """A value of a protocol in words; digests by their first digits."""
    if value is None:
        return "none"
    return str(value)[:12] if name.endswith("sha256") else str(value)


def evaluation(
    kind: str, of: str, model: str, protocol: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """One measurement as plain values, as run.json keeps it. ``of``: pruned, or dense."""
    return {"kind": kind, "of": of, "model": model, "protocol": dict(protocol), "results": dict(results)}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What is unlike in two protocols, in words; empty if their figures can be compared."""
    names = [name for name in {**first, **second} if name not in NAMES_ONLY]
    return [
        f"{label(name)} {shown(name, first.get(name))} and {shown(name, second.get(name))}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def require_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raise a TrimPruneError that names what differs in two protocols."""
    if unlike := differences(first, second):
        raise TrimPruneError(
            "figures of unlike protocols cannot be compared",
            got="; ".join(unlike),
            fix="measure both by one protocol: trim-prune evaluate DIR --against DENSE",
        )


def shared(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What was measured of two models or more by like protocols, results by the name of the model.

    ``evaluations``: by the name of the model, in the order in which they were measured.
    """
    groups: list[dict[str, Any]] = []
    for name, measured in evaluations.items():
        for found in measured:
            group = next((group for group in groups if _alike(group, found)), None)
            if group is None:
                group = {"kind": found["kind"], "protocol": found["protocol"], "results": {}}
                groups.append(group)
            group["results"][name] = found["results"]
    return [group for group in groups if len(group["results"]) > 1]


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first["kind"] == second["kind"] and not differences(first["protocol"], second["protocol"])
