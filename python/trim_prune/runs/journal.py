"""A journal: everything that has been found out so far, so that another process can go on from there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..events import append_line, to_json

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """Entries in lines of JSON, in a file that one process has at a time.

    An entry is written when its work is done; a line that a crash cut short does not count.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin it.

        Raises:
            BlockingIOError: another process has it.
            OSError: the file cannot be read or written.
        """
        self.entries: list[dict[str, Any]] = []
        self._ends = [0]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except OSError:
            self._file.close()
            raise

    def add(self, entry: dict[str, Any]) -> None:
        """Note what has been found; it is on the disk afterwards."""
        length = append_line(self._file, to_json(entry))
        os.fsync(self._file.fileno())
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + length)

    def keep(self, entries: int) -> None:
        """Forget all entries but the first ones."""
        del self.entries[entries:], self._ends[entries + 1 :]
        self._file.truncate(self._ends[-1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0)
        for entry, length in _entries(self._file.read()):
            self.entries.append(entry)
            self._ends.append(self._ends[-1] + length)
        self.keep(len(self.entries))


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a journal that stays as it is."""
    return [entry for entry, _ in _entries(path.read_bytes())]


def unfinished(out: Path) -> Path:
    """Where a run keeps its journal, and what it has done, until its output is whole."""
    return out.with_name(f"{out.name}.unfinished")


def _entries(content: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole lines, each with its length."""
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n"):
            return
        yield entry, len(line)
