"""Files of perplexities of pruned models: what calibrates, what judges, and the rows measured so far."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trim_prune.calibration.text import Text, open_text
from trim_prune.demo import split_topics
from trim_prune.files import write_atomically
from trim_prune.recipes import AnyRecipe, build_recipe

CALIBRATION_SHARE = 0.6
"""Of the characters of the text: the windows that judge come from the rest."""


@dataclass(frozen=True)
class Protocol:
    """What all rows of a file have in common; rows of unlike protocols cannot be compared."""

    model: str
    text: str
    dtype: str
    seqlen: int
    windows: int
    window: int


class QualityFile:
    """The rows so far, whole after each of them; several processes may add to one file."""

    def __init__(self, path: Path, machine: Mapping[str, Any], protocol: Protocol) -> None:
        self.path, self._machine = path, machine
        self.content: dict[str, Any] = {"protocol": asdict(protocol), "rows": []}
        if path.exists():
            self._read()
            if self.content["protocol"] != asdict(protocol):
                found = self.content["protocol"]
                raise SystemExit(f"{path} holds rows of another protocol, {found}: give another --out")

    def put(self, section: str, value: object) -> None:
        """Store anything but a row, under a name of its own."""
        with self._changed():
            self.content[section] = value

    def has(self, method: str, recipe: AnyRecipe) -> bool:
        """Whether a row was measured already."""
        return any((row["method"], build_recipe(row["recipe"])) == (method, recipe) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the file, with what it was measured by."""
        with self._changed():
            self.rows.append(row | {name: self._machine[name] for name in ("device", "threads", "commit")})

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Read what others wrote since, and replace the file at once: whoever reads it finds it whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self.path.exists():
                self._read()
            yield
            self.content["machine"] = self._machine
            write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")
        finally:
            os.close(folder)

    def _read(self) -> None:
        self.content = json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows


def star(row: Mapping[str, Any]) -> str:
    """Marks what was measured elsewhere than on a CPU."""
    return "" if row["device"] == "cpu" else "\\*"


def stars(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the mark means; nothing where no row has it."""
    elsewhere = sorted({row["device"] for row in rows if star(row)})
    return f" \\* on one {', '.join(elsewhere)}." if elsewhere else ""


def split(file: Path | None) -> tuple[list[str], Text]:
    """The text in two, cut between words: what calibrates, and what judges. None: Python's help texts, by topics."""
    if file is None:
        return split_topics()
    text = "\n".join(open_text(file).documents)
    cut = re.compile(r"\s").search(text, int(CALIBRATION_SHARE * len(text)))
    if cut is None:
        raise SystemExit(f"{file}: too little text to judge by")
    at = cut.end()
    return [text[:at]], Text(f"{file.name}, the last {1 - CALIBRATION_SHARE:.0%}", [text[at:]])
