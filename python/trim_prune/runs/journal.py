"""A journal: everything that has been found out so far, so that another process can go on from there."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ..events import append_line, to_json


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
        for line in self._file.read().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self.entries.append(entry)
            self._ends.append(self._ends[-1] + len(line))
        self.keep(len(self.entries))
