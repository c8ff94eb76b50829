"""Recipes with a name: one YAML file each, which says what it is and where it comes from."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from ..errors import TrimPruneError, nearest


def names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def read(name: str) -> dict[str, Any]:
    """The values of a preset."""
    known = names()
    if name not in known:
        raise TrimPruneError(
            f"unknown preset {name!r}", expected="one of " + ", ".join(known), fix=nearest(str(name), known) or None
        )
    values: dict[str, Any] = yaml.safe_load((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))
    return values
