"""The journal of a search: everything it has found out so far, so that it can go on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from pathlib import Path
from typing import IO, Any

from torch import nn

from ..cache import add_tensor, cache_file
from ..events import to_json
from .evolution import Candidate, Generation
from .fisher import FisherSums


def subject_digest(model: nn.Module, *facts: Any) -> str:
    """One string for a search: the bytes of the model's parameters, and what else decides what it finds."""
    digest = hashlib.sha256(to_json(facts).encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name} ".encode())
        add_tensor(digest, parameter)
    return digest.hexdigest()


class Journal:
    """Lines of JSON: the sums of the sensitivities after every sequence, and every generation.

    Kept in the user's cache folder under the digest of what is searched. A line is written when its work is done; one
    that a crash cut short does not count. Where no file can be had (no home, a full disk, another process at the same
    search), everything works but going on later: ``problem`` says why.
    """

    def __init__(self, digest: str) -> None:
        """Open the journal of a search, or begin it."""
        self.fisher: FisherSums | None = None
        self.generations: list[Generation] = []
        self.lines: list[str] = []
        self.problem: str | None = None
        self._file: IO[bytes] | None = None
        try:
            self._file = _opened(cache_file(f"msp-{digest[:32]}.jsonl"))
        except (OSError, RuntimeError) as error:
            self.problem = str(error)
        else:
            self._read(self._file)

    def add_fisher(self, sums: FisherSums) -> None:
        """Note the sums over the sequences so far."""
        self.fisher = sums
        self._write({"fisher": vars(sums)})

    def add_generation(self, generation: Generation, seconds: float) -> None:
        """Note a generation that is judged."""
        candidates = [{"levels": candidate.levels, "losses": candidate.losses} for candidate in generation]
        self._write({"generation": len(self.generations), "seconds": seconds, "candidates": candidates})
        self.generations.append(generation)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, file: IO[bytes]) -> None:
        end = 0
        for line in file:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                break
            self.lines.append(line.decode().rstrip("\n"))
            end += len(line)
        file.seek(end)
        file.truncate()

    def _take(self, entry: dict[str, Any]) -> None:
        if "fisher" in entry:
            self.fisher = FisherSums(**entry["fisher"])
        else:
            self.generations.append(tuple(_candidate(candidate) for candidate in entry["candidates"]))

    def _write(self, entry: dict[str, Any]) -> None:
        self.lines.append(to_json(entry))
        if self._file is not None:
            self._file.write(self.lines[-1].encode() + b"\n")
            self._file.flush()


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


def _candidate(entry: dict[str, Any]) -> Candidate:
    # JSON has no infinity: it was written as null.
    losses = tuple(math.inf if loss is None else float(loss) for loss in entry["losses"])
    return Candidate(tuple(entry["levels"]), losses)
