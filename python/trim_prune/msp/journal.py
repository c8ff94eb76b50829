"""The journal of a search: everything it has found out so far, so that it can go on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from torch import nn

from ..cache import add_tensor, cache_file
from ..events import to_json
from ..models.device import parameters_of
from ..models.discover import Block
from .evolution import Candidate, Generation

FORMAT = 1
"""Of the entries; another one, or another way to search, makes old journals unread."""


def subject_digest(model: nn.Module, blocks: Sequence[Block], *facts: Any) -> str:
    """One string for a search: the bytes of the model's parameters, and what else decides what it finds."""
    digest = hashlib.sha256(to_json([FORMAT, *facts]).encode())
    for name, parameter in parameters_of(model, blocks):
        digest.update(f"{name} ".encode())
        add_tensor(digest, parameter)
    return digest.hexdigest()


class Journal:
    """Entries in lines of JSON, in a file of the user's cache folder that is named by what they are about.

    An entry is written when its work is done; a line that a crash cut short does not count. Where no file can be had
    (no home, a full disk, another process at the same search), everything works but going on later: ``problem`` says
    why.
    """

    def __init__(self, name: str) -> None:
        """Open a journal, or begin it."""
        self.entries: list[dict[str, Any]] = []
        self.problem: str | None = None
        self._file: IO[bytes] | None = None
        try:
            self._file = _opened(cache_file(name))
        except (OSError, RuntimeError) as error:
            self.problem = str(error)
        else:
            self._read(self._file)

    def add(self, entry: dict[str, Any]) -> None:
        """Note what has been found."""
        self.entries.append(entry)
        if self._file is None:
            return
        try:
            self._file.write(to_json(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            self.problem = str(error)
            self._file = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, file: IO[bytes]) -> None:
        end = 0
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            self.entries.append(entry)
            end += len(line)
        file.seek(end)
        file.truncate()


def generation_entry(generation: Generation, number: int, seconds: float) -> dict[str, Any]:
    """A generation that is judged, as an entry."""
    candidates = [{"levels": candidate.levels, "losses": candidate.losses} for candidate in generation]
    return {"generation": number, "seconds": seconds, "candidates": candidates}


def generation_of(entry: Mapping[str, Any]) -> Generation:
    """The generation that an entry tells of."""
    return tuple(_candidate(candidate) for candidate in entry["candidates"])


def _opened(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    file.seek(0)
    return file


def finite_or_infinite(loss: float | None) -> float:
    """A loss as it was; what is not finite is written as null, and as bad as can be."""
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    return Candidate(tuple(entry["levels"]), tuple(map(finite_or_infinite, entry["losses"])))
