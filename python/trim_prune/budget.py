"""What a linear is to lose."""

from __future__ import annotations

from dataclasses import dataclass

from .pattern import Keep


@dataclass(frozen=True)
class Budget:
    """How many weights of a linear go, and by which pattern if the recipe has one."""

    prune_count: int
    pattern: Keep | None = None
