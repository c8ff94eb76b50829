"""How fast this machine is, found out in about two seconds."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PRODUCT, MEMORY, DISK = 0.5, 0.3, 0.3
"""Seconds for each rate; there are two of products and two of the disk."""
ROWS, SIZE = 4096, {"cpu": 1024, "cuda": 8192}
COPIED, PIECE, MOST_WRITTEN = 64 << 20, 16 << 20, 512 << 20
"""Bytes: of the copied buffer, written at a time, and written in all at most."""


@dataclass(frozen=True)
class Rates:
    """Operations per second in products of the model's type and of float32; bytes per second of memory and disk.

    A copy counts what is read and what is written.
    """

    product: float
    product_float32: float
    memory: float
    disk_read: float
    disk_write: float


def measure_rates(device: torch.device, dtype: torch.dtype, folder: Path) -> Rates:
    """Rates of that device, and of the disk on which a folder is or will be; takes about two seconds."""
    product = _product(device, dtype)
    single = product if dtype == torch.float32 else _product(device, torch.float32)
    read, write = _disk(folder)
    return Rates(product, single, _memory(device), read, write)


def _product(device: torch.device, dtype: torch.dtype) -> float:
    size = SIZE.get(device.type, SIZE["cuda"])
    left = torch.randn(ROWS, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    return 2 * ROWS * size * size / _seconds(lambda: left @ right, device, PRODUCT)


def _memory(device: torch.device) -> float:
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / _seconds(lambda: target.copy_(source), device, MEMORY)


def _seconds(call: Callable[[], object], device: torch.device, budget: float) -> float:
    """Of one call, the fastest of those that fit into the budget; the first one, which warms up, does not count."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _disk(folder: Path) -> tuple[float, float]:
    """Reading and writing, past the cache of the system where it lets itself be passed."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    content = os.urandom(PIECE)
    with tempfile.TemporaryFile(dir=place if os.access(place, os.W_OK) else None) as file:
        begin, written = time.perf_counter(), 0
        while written < PIECE or (time.perf_counter() - begin < DISK and written < MOST_WRITTEN):
            written += file.write(content)
            os.fsync(file.fileno())
        write = written / (time.perf_counter() - begin)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin, read = time.perf_counter(), 0
        while (part := len(file.read(PIECE))) and time.perf_counter() - begin < DISK:
            read += part
        return max(read, PIECE) / (time.perf_counter() - begin), write
