"""Named entries of one kind: scores, layer budgets, row budgets, solvers."""

from __future__ import annotations

from typing import Generic, TypeVar

from .errors import TrimPruneError, nearest
from .plugins import load_plugins

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named entries; an unknown name is an error that lists the known ones.

    Plug-ins are loaded when a name is asked for that is not there: a run that needs none of them neither waits for
    them nor fails with them.
    """

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
            broken = load_plugins()
        if name not in self._entries:
            advice = [nearest(name, self._entries), *(f"repair {plugin}" for plugin in broken)]
            raise TrimPruneError(
                f"unknown {self.kind} {name!r}",
                expected="one of " + ", ".join(self.names()),
                fix="; ".join(filter(None, advice)) or None,
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted, those of plug-ins among them."""
        load_plugins()
        return self.registered()

    def registered(self) -> list[str]:
        """The names that are there without loading a plug-in, sorted."""
        return sorted(self._entries)
