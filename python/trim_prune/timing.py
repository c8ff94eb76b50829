"""Wall time and peak memory by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .memory import PeakMemory


class Timings:
    """Seconds by phase, and the phases that raised the peak memory.

    A phase inside another counts for itself only, so the seconds add up to the whole; the memory that it takes counts
    for the outer one. Of a GPU the outer phases wait for what was begun in them, and inner ones do not: what a GPU does
    of an inner one may count for the outer one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """``device``: on which the phases compute."""
        self._device = device
        self.seconds: dict[str, float] = {}
        self.memory = PeakMemory()
        self._inner: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the body as part of a phase."""
        if not self._inner:
            self._wait()
            self.memory.settle(None)
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
            if len(self._inner) == 1:
                self._wait()
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
            else:
                self.memory.settle(name)

    def _wait(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
