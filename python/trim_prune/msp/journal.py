"""The journal of a search: everything it has found out so far, so that it can go on where it stopped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..cache import cache_file
from ..digest import add_tensor
from ..events import to_json
from ..models.device import parameters_of
from ..models.discover import Block
from ..runs.journal import Journal
from .evolution import Candidate, Generation


def subject_digest(model: nn.Module, blocks: Sequence[Block], *facts: Any) -> str:
    """One string for a search: the bytes of the model's parameters, and what else decides what it finds."""
    digest = hashlib.sha256(to_json(facts).encode())
    for name, parameter in parameters_of(model, blocks):
        digest.update(f"{name} ".encode())
        add_tensor(digest, parameter)
    return digest.hexdigest()


class SearchJournal:
    """A journal in the user's cache folder, named by what it is about.

    Where no file can be had (no home, a full disk, another process at the same search), everything works but going on
    later: ``problem`` says why.
    """

    def __init__(self, name: str) -> None:
        """Open a journal, or begin it."""
        self.entries: list[dict[str, Any]] = []
        self.problem: str | None = None
        self._journal: Journal | None = None
        try:
            self._journal = Journal(cache_file(name))
        except (OSError, RuntimeError) as error:
            self.problem = str(error)
        else:
            self.entries = self._journal.entries

    def add(self, entry: dict[str, Any]) -> None:
        """Note what has been found."""
        if self._journal is None:
            self.entries.append(entry)
            return
        try:
            self._journal.add(entry)
        except OSError as error:
            self.entries.append(entry)
            self.problem = str(error)
            self._journal = None

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()


def generation_entry(generation: Generation, number: int, seconds: float) -> dict[str, Any]:
    """A generation that is judged, as an entry."""
    candidates = [{"levels": candidate.levels, "losses": candidate.losses} for candidate in generation]
    return {"generation": number, "seconds": seconds, "candidates": candidates}


def generation_of(entry: Mapping[str, Any]) -> Generation:
    """The generation that an entry tells of."""
    return tuple(_candidate(candidate) for candidate in entry["candidates"])


def finite_or_infinite(loss: float | None) -> float:
    """A loss as it was; what is not finite is written as null, and as bad as can be."""
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    return Candidate(tuple(entry["levels"]), tuple(map(finite_or_infinite, entry["losses"])))
