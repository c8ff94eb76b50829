"""Peak memory of the process and of its GPUs, and which phases of a run raised it."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

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


class BodyPeak:
    """The most memory in use at one time in the body of a ``with``: bytes on the GPU, or of the whole process.

    Begins by resetting the peak of the device or, on Linux, of the process. ``bytes`` is None where that is not
    possible.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> BodyPeak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        elif os.access("/proc/self/clear_refs", os.W_OK):
            self.bytes = peaks()["process"]
