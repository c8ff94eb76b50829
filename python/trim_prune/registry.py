"""Named entries of one kind: scores, layer budgets, row budgets, solvers."""

from __future__ import annotations

from typing import Generic, TypeVar

from .errors import TrimPruneError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named entries; an unknown name is an error that lists the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add an entry. A name that is taken is an error: nothing is replaced silently."""
        if name in self._entries:
            raise TrimPruneError(f"{self.kind} {name!r} is registered already", fix="choose another name")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry of that name."""
        if name not in self._entries:
            raise TrimPruneError(
                f"unknown {self.kind} {name!r}",
                expected="one of " + ", ".join(self.names()),
                fix=nearest(name, self._entries) or None,
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)
