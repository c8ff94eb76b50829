"""The results of a device: a JSON file that is whole after every figure, so that a stop loses nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Missing

FOLDER = Path(__file__).parent / "results"


def slug(name: str) -> str:
    """A file name of a device's name: "NVIDIA H200" becomes "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class ResultFile:
    """The facts of the machine, the figures, what has none, and the steps of ``make gpu``.

    With ``go_on`` what the file holds of the same machine, versions and commit stays; else it is written anew.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any], *, go_on: bool) -> None:
        self.path = path
        self._content: dict[str, Any] = {"machine": dict(machine), "limits": [], "figures": [], "missing": []}
        earlier = _read(path) if go_on else {}
        if _same(earlier.get("machine"), machine):
            self._content |= earlier

    def has(self, *, op: str, variant: str, rows: int, columns: int, dtype: str) -> bool:
        """Whether any backend was measured, or tried, on this."""
        wanted = {"op": op, "variant": variant, "rows": rows, "columns": columns, "dtype": dtype}
        return any(wanted.items() <= found.items() for found in self._content["figures"] + self._content["missing"])

    def add(self, found: Figure | Missing) -> None:
        """Store a figure, or that there is none, instead of an earlier one of the same thing."""
        for section, type_ in (("figures", Figure), ("missing", Missing)):
            self._content[section] = [kept for kept in self._content[section] if _key(kept) != found.key]
            if isinstance(found, type_):
                self._content[section].append(asdict(found))
        self.write()

    def put(self, section: str, value: object) -> None:
        """Store anything else under a name of its own."""
        self._content[section] = value
        self.write()

    def append(self, section: str, value: object) -> None:
        """Add to a list."""
        self._content.setdefault(section, []).append(value)
        self.write()

    def write(self) -> None:
        """Replace the file at once: whoever reads it finds it whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _same(earlier: object, now: Mapping[str, Any]) -> bool:
    """Whether figures of the two can stand side by side; a day may pass between them."""
    return isinstance(earlier, dict) and {**earlier, "date": None} == json.loads(json.dumps({**now, "date": None}))


def _key(stored: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(stored[name] for name in ("op", "variant", "backend", "rows", "columns", "dtype"))
