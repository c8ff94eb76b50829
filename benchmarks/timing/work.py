"""What is timed, and what comes out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """The same call on several copies of its arguments, and what makes the copies as they were.

    ``restore`` runs outside the timed part; an operation that works in place needs it.
    """

    calls: Sequence[Callable[[], object]]
    restore: Callable[[], None] | None = None
    waits: bool = False
    """Whether a call ends with the host waiting for the device: such a call is no part of a CUDA graph."""


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the median and the 20% and 80% quantiles of ``rounds`` measurements."""

    median: float
    low: float
    high: float
    rounds: int
    method: str
    """"wall" clock, device "events" around the calls, or events around the replay of a CUDA "graph" of them."""


def summarize(seconds: Sequence[float], method: str) -> Times:
    """The quantiles of measured seconds; of a single one, three times itself."""
    if len(seconds) == 1:
        return Times(seconds[0], seconds[0], seconds[0], 1, method)
    low, _, _, high = statistics.quantiles(seconds, n=5, method="inclusive")
    return Times(statistics.median(seconds), low, high, len(seconds), method)
