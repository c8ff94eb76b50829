"""Plug-ins: installed distributions that bring scores, layer budgets, row budgets and solvers of their own."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

GROUP = "trim_prune.plugins"


@cache
def load_plugins() -> tuple[str, ...]:
    """Import every entry point of the group ``trim_prune.plugins``, once; each registers what it brings.

    One that fails stops nothing. Returns a line for each of those: entry point, distribution and error.
    """
    failures = []
    for entry in sorted(entry_points(group=GROUP)):
        try:
            entry.load()
        except Exception as error:
            source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
            reason = (str(error).splitlines() or [""])[0]
            failures.append(f"plug-in {entry.name!r} of {source} ({type(error).__name__}: {reason})")
    return tuple(failures)
