"""Peak memory of allocate_rows beyond its arguments, in bytes, on Linux: python -m benchmarks.peak_memory R C BACKEND.

A process of its own, as memory that an earlier call has freed would hide what this one takes.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import trim_kernels
from benchmarks.data import linear_like
from benchmarks.problems import SPARSITY, TOKENS

STATUS = Path("/proc/self/status")


def start() -> int:
    """Begin to watch: the highest mark is reset. Returns the resident bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier work took; it would be reused unseen
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes("VmRSS") * 1024


def kilobytes(field: str) -> int:
    """What the kernel says of this process: VmRSS, resident now; VmHWM, the most since :func:`start`."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))


def peak_bytes(rows: int, columns: int, backend: str) -> int:
    """Highest resident memory during one call, less what was resident before it."""
    weight, inputs, column_scale = linear_like(rows, columns, TOKENS)
    # A small call first: what is loaded or started once is not the memory of a call.
    small, few, scale = linear_like(16, 16, 4)
    trim_kernels.allocate_rows(small, few, SPARSITY, column_scale=scale, backend=backend)
    before = start()
    trim_kernels.allocate_rows(weight, inputs, SPARSITY, column_scale=column_scale, backend=backend)
    return kilobytes("VmHWM") * 1024 - before


if __name__ == "__main__":
    print(peak_bytes(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
