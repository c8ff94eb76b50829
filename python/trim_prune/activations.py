"""Where hidden states wait for their block: on the device, in memory, or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .errors import TrimPruneError
from .models.shards import allocate
from .transfers import lane_of

SHARE = 0.5
"""Of the memory that is free, what hidden states may take."""
CGROUP = Path("/sys/fs/cgroup")

Keep = Callable[[Tensor], Tensor]
"""Puts hidden states where they wait; returns them there."""
Where = Literal["device", "memory", "file"]


def where_kept(size: int, device: torch.device, sharing: int = 1) -> Where:
    """Where hidden states of ``size`` bytes in all wait, from what is free now.

    On the device on which blocks compute, if they take at most half of what it has left; else in memory, likewise; else
    in files. ``sharing``: processes of this run on the machine, each of which has as much to keep in its memory.
    """
    if device.type == "cuda" and size <= SHARE * free_on(device):
        return "device"
    return "memory" if size * sharing <= SHARE * free_memory() else "file"


def keeper(size: int, device: torch.device, home: torch.device, folder: Path | None, sharing: int = 1) -> Keep:
    """How to keep hidden states of ``size`` bytes in all where :func:`where_kept` says.

    In memory they lie where transfers to a GPU need no copy (pinned), and are still on their way when the call returns:
    see ``transfers``. Files are in ``folder`` (the system's, for temporary files, if there is none), mapped into
    memory; they lose their names at once and so never outlive the process.

    Args:
        home: where the model gives its hidden states; a model that lies on a GPU keeps them there.
        sharing: see :func:`where_kept`.
    """
    if home.type != "cpu":
        return lambda hidden: hidden.to(home)
    where = where_kept(size, device, sharing)
    if where == "device":
        return lambda hidden: hidden.to(device)
    if where == "memory":
        return lane_of(device).store
    return lambda hidden: _in_file(hidden, folder)


def free_on(device: torch.device) -> int:
    """Bytes that this process may still take on the device on which blocks compute."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def free_memory() -> int:
    """Bytes that this process may still take, by the machine and by its cgroup."""
    import psutil

    free: int = psutil.virtual_memory().available
    limit, used = (_number(CGROUP / f"memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _in_file(hidden: Tensor, folder: Path | None) -> Tensor:
    with tempfile.NamedTemporaryFile(prefix="hidden-", dir=folder) as file:
        size = hidden.numel() * hidden.element_size()
        try:
            # What is written into a mapped file for which the disk has no space kills the process.
            allocate(Path(file.name), size)
        except OSError as error:
            raise TrimPruneError(
                "there is no place for the hidden states, neither in memory nor on the disk",
                where=str(Path(file.name).parent),
                got=f"{size} bytes more: {error.strerror}",
                fix="free some space, or lower --samples or --seqlen",
            ) from error
        mapped = torch.from_file(file.name, shared=True, size=hidden.numel(), dtype=hidden.dtype)
    return mapped.view(hidden.shape).copy_(hidden)
