"""Recipes with a name: one YAML file each, which says what it is and where it comes from."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from ..errors import TrimPruneError, nearest

STRUCTURED = "structured"
"""The folder of the presets that take whole heads and channels."""


def names(folder: str = "") -> list[str]:
    """The names of all presets of a folder, sorted."""
    entries = files(__name__).joinpath(folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def read(name: str, folder: str = "") -> dict[str, Any]:
    """The values of a preset."""
    known = names(folder)
    if name not in known:
        raise TrimPruneError(
            f"unknown preset {name!r}", expected="one of " + ", ".join(known), fix=nearest(str(name), known) or None
        )
    values: dict[str, Any] = yaml.safe_load(
        files(__name__).joinpath(folder, f"{name}.yaml").read_text(encoding="utf-8")
    )
    return values
