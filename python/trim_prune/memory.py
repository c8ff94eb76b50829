"""Peak memory of the process and of its GPUs, and which phases of a run raised it."""

from __future__ import annotations

import resource
import sys

import torch

Peaks = dict[str, int]
"""Bytes by place: ``process`` (resident), and ``gpu`` (the most allocated on one device) where torch has used one."""


def peaks() -> Peaks:
    """The most that was in use at one time since the process began."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["gpu"] = max(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    return found


class PeakMemory:
    """The peaks of a process, and the height to which each phase raised them.

    A peak only rises: a phase that needs less than was in use before it has no entry.
    """

    def __init__(self) -> None:
        self.peak = peaks()
        self.by_phase: dict[str, Peaks] = {}

    def settle(self, phase: str | None) -> None:
        """What rose since the last call is due to the phase; None: to none of them."""
        now = peaks()
        risen = {place: height for place, height in now.items() if height > self.peak.get(place, 0)}
        if phase is not None and risen:
            self.by_phase[phase] = self.by_phase.get(phase, {}) | risen
        self.peak = now
