"""Which recipes a benchmark measures, as its command line says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def chosen(
    names: Sequence[str], also: Sequence[str], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The known recipes of some names, and those given as NAME={...}; an error says what is wrong with either."""
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown method {name!r}: known are {', '.join(known)}")
    return {name: known[name] for name in names} | dict(map(_named, also))


def _named(text: str) -> tuple[str, dict[str, Any]]:
    name, _, recipe = text.partition("=")
    try:
        values = json.loads(recipe)
    except json.JSONDecodeError:
        values = None
    if not name or not isinstance(values, dict):
        raise SystemExit(f'--also: expected NAME={{"score": "wanda", ...}}, got {text!r}')
    return name, values
