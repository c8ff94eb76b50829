"""Fallbacks that linears need, such as a repaired factorisation: an error where the recipe is strict, else counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .errors import TrimPruneError
from .models.discover import Linear

if TYPE_CHECKING:
    from .recipe import Recipe


def refuse_fallback(recipe: Recipe, linear: Linear, steps: Collection[str]) -> None:
    """An error if the recipe is strict and the linear needed these steps in place of what failed or was missing."""
    if recipe.strict and steps:
        raise TrimPruneError(
            "a linear needs a fallback",
            where=f"block {linear.block}, {linear.name}",
            expected="none (strict)",
            got=", then ".join(steps),
            fix="go without strict: run.json then tells of every such linear; more calibration text or damping may "
            "help",
        )


def counted(fallen: Collection[Sequence[str]], whole: int, what: str = "linears") -> str:
    """How many of so many linears needed a fallback, and which steps were the last of them."""
    kinds = Counter(re.sub(r"\b\d+\b", "N", steps[-1]) for steps in fallen)
    return f"{len(fallen)} of {whole} {what} needed a fallback, the last of which was: " + ", ".join(
        f"{step} ({count})" for step, count in kinds.most_common()
    )
