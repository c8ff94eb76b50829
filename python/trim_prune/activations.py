"""Where hidden states wait for their block: on the device, in memory, or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .errors import TrimPruneError
from .models.shards import allocate

SHARE = 0.5
"""Of the memory that is free, what hidden states may take."""
CGROUP = Path("/sys/fs/cgroup")

Keep = Callable[[Tensor], Tensor]
"""Puts hidden states where they wait; returns them there."""


def keeper(size: int, device: torch.device, home: torch.device, folder: Path | None, sharing: int = 1) -> Keep:
    """How to keep hidden states of ``size`` bytes in all, from what is free now.

    On the device on which blocks compute, if they take at most half of what it has left; else in memory, likewise,
    where transfers to a GPU need no copy (pinned); else in files in ``folder`` (the system's, for temporary files, if
    there is none), mapped into memory, which lose their names at once and so never outlive the process.

    Args:
        home: where the model gives its hidden states; a model that lies on a GPU keeps them there.
        sharing: processes of this run on the machine, each of which has as much to keep in its memory.
    """
    if home.type != "cpu":
        return lambda hidden: hidden.to(home)
    if device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]:
        return lambda hidden: hidden.to(device)
    if size * sharing <= SHARE * free_memory():
        return _pinned if device.type == "cuda" else lambda hidden: hidden.to("cpu")
    return lambda hidden: _in_file(hidden, folder)


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


def _pinned(hidden: Tensor) -> Tensor:
    return torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden)


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
