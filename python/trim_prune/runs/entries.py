"""Results and budgets as entries of a journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..budget import Budget
from ..pattern import Keep
from ..results import LinearResult


def results_of(entry: Mapping[str, Any]) -> list[LinearResult]:
    """The results of the linears of a finished block."""
    return [_result(result) for result in entry["results"]]


def budget_of(entry: Sequence[int]) -> Budget:
    """What a linear is to lose, from [count] or [count, keep, of]."""
    return Budget(entry[0], Keep(*entry[1:]) if entry[1:] else None)


def entry_of(budget: Budget) -> list[int]:
    """What :func:`budget_of` understands."""
    return [budget.prune_count, *(budget.pattern or ())]


def plain(result: LinearResult) -> dict[str, Any]:
    """As JSON takes it: numbers that are not finite as words."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in vars(result).items()
    }


def _result(entry: Mapping[str, Any]) -> LinearResult:
    values = dict(entry)
    for field in fields(LinearResult):
        value = values[field.name]
        if isinstance(value, list):
            values[field.name] = tuple(value)
        elif isinstance(value, str) and "float" in str(field.type):
            values[field.name] = float(value)
    return LinearResult(**values)
