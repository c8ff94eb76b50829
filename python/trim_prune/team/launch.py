"""Whether this process is one of several, as torchrun starts them, and the team of all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import TrimPruneError
from .ranks import Ranks, told_to_end
from .team import ALONE, Team

PATIENCE = timedelta(hours=24)
"""How long ranks wait for one another: the first one may lay out a large output, or search layer budgets for hours. A
process that dies is noticed at once, as its connections close; only a machine that vanishes is not."""
FEW_SECONDS = timedelta(seconds=30)
"""How long a rank looks for the others only to hear who tells of an error."""
TOLD = "trim-prune/told"

_stores: list[Any] = []
"""What ranks find one another by: torchrun's, and then one for each time that they did."""


def ranks_wanted() -> int:
    """How many processes prune together: by torch.distributed, where it is in use, or as torchrun says."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the first one, or alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return ranks_wanted() <= 1 or os.environ["RANK"] == "0"


def may_tell() -> bool:
    """Whether this process is to tell of the error that ends it: of several, the first one that asks."""
    if ranks_wanted() <= 1:
        return True
    if not _stores and dist.is_initialized():
        return is_first()
    try:
        return bool(_met(FEW_SECONDS).add(TOLD, 1) == 1)
    except (RuntimeError, ValueError):
        # What ranks find one another by was with a process that has ended.
        return True


def heed_others() -> None:
    """Let SIGTERM, by which torchrun ends ranks after one has failed, end this process in good order."""
    if ranks_wanted() > 1:
        signal.signal(signal.SIGTERM, told_to_end)


@contextmanager
def open_team(device: str) -> Iterator[Team]:
    """The processes that prune together; one alone where nobody has started several.

    ``device``: as in a recipe. On GPUs each rank takes that of its number on the machine (LOCAL_RANK).

    Raises:
        TrimPruneError: ranks cannot have such a device each.
    """
    if ranks_wanted() <= 1:
        yield ALONE
        return
    # A torch that is built without distributed does not have it.
    from torch.distributed.distributed_c10d import PrefixStore

    own, started = _own_device(device), dist.is_initialized()
    if started:
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    else:
        # Under names of its own: those of an earlier call are still there.
        _stores.append(PrefixStore(f"trim-prune-{len(_stores)}", _met(PATIENCE)))
        rank, size = int(os.environ["RANK"]), ranks_wanted()
        dist.init_process_group("gloo", store=_stores[-1], rank=rank, world_size=size, timeout=PATIENCE)
        control = dist.group.WORLD
    assert control is not None
    data = dist.new_group(backend="nccl", timeout=PATIENCE) if own.type == "cuda" else control
    yield Ranks(own, control, data)
    # After an error the process ends: connections that others still use may not be closed in order.
    if not started:
        dist.destroy_process_group()


def _met(patience: timedelta) -> Any:
    """The store by which ranks find one another: torchrun's, or that of the first one."""
    from torch.distributed.rendezvous import rendezvous

    if not _stores:
        _stores.append(next(rendezvous("env://", timeout=patience))[0])
    return _stores[0]


def _own_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise TrimPruneError(
            "every rank takes a device of its own", expected="device auto, cuda or cpu", got=device, fix="leave it out"
        )
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= devices:
        raise TrimPruneError(
            "more ranks on this machine than GPUs",
            expected=f"at most {devices}",
            got=f"LOCAL_RANK {number}",
            fix="start fewer: torchrun --nproc-per-node; or give --device cpu",
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
