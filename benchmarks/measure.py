"""Timing, and what the machine can do at best."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

import trim_kernels
from trim_kernels import native

PAUSE = 0.01
BURST = 0.05


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall time of one call, the device's work included."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], object]], device: str, budget: float) -> dict[str, float]:
    """Median seconds of each call, warm. All take turns in bursts, as long as the budget lasts.

    Turns, so that whatever else the machine does falls on all alike. Bursts after a pause, and without their first
    call, so that each is measured as its own neighbour: OpenMP workers of a torch call spin for milliseconds after it
    and would take a core from whatever comes next.
    """
    length = {name: seconds(call, device) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    while not times[next(iter(calls))] or time.perf_counter() - start < budget:
        for name, call in calls.items():
            time.sleep(PAUSE)
            if length[name] < BURST:
                call()
            repeats = max(1, int(BURST / length[name]))
            times[name] += [seconds(call, device) for _ in range(repeats)]
    return {name: statistics.median(values) for name, values in times.items()}


class Limits:
    """What this machine reaches in this run: bytes read per second, and float32 operations per second in a product."""

    def __init__(self, device: str) -> None:
        data = torch.ones(64 << 20, dtype=torch.float32, device=device)
        left = torch.randn(2048, 2048, device=device)
        times = medians({"read": data.sum, "product": lambda: left @ left}, device, budget=1.0)
        self.bytes_per_second = data.numel() * data.element_size() / times["read"]
        self.operations_per_second = 2 * 2048**3 / times["product"]

    def seconds(self, *, bytes_moved: float, operations: float) -> float:
        """The least time for so many bytes and float32 operations, if each hides behind the other."""
        return max(bytes_moved / self.bytes_per_second, operations / self.operations_per_second)


def machine(device: str) -> dict[str, object]:
    """What a figure depends on."""
    facts: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": native.instruction_set(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "trim_kernels": trim_kernels.__version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
