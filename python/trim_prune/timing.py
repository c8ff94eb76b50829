"""Wall time and peak memory by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .memory import PeakMemory


class Timings:
    """Seconds by phase, and the phases that raised the peak memory.

    A phase inside another counts for itself only, so the seconds add up to the whole; the memory that it takes counts
    for the outer one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory = PeakMemory()
        self._inner: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the body as part of a phase."""
        if not self._inner:
            self.memory.settle(None)
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
            else:
                self.memory.settle(name)
