"""What a figure depends on: the machine, the versions, the commit."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from trim_kernels.machine import machine, versions

COMMIT = "TRIM_KERNELS_COMMIT"
"""Names the commit where the sources travel without their history."""


def about(device: str) -> dict[str, object]:
    """The facts, as they stand in a result file."""
    return {**machine(device), **versions(), "commit": _commit(), "date": time.strftime("%Y-%m-%d")}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return os.environ.get(COMMIT, "unknown")
    return os.environ.get(COMMIT) or result.stdout.strip() or "unknown"
