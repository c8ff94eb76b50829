"""Where to compute: the device that a name stands for, and the mode in which a model computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..errors import TrimPruneError
from .discover import Block


def choose_device(name: str) -> torch.device:
    """The device of that name, tried out; "auto" is the first GPU if there is one, otherwise the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrimPruneError(
            f"device {name!r} cannot be used",
            expected="auto, cpu, cuda, or one of several: cuda:1",
            got=str(error).splitlines()[0],
        ) from None
    return device


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout inside this context; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module lies on that device inside this context, and afterwards where it lay."""
    home = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


@contextmanager
def rest_on_device(model: nn.Module, blocks: Sequence[Block], device: torch.device) -> Iterator[None]:
    """What of the model lies outside its blocks (embeddings, last norm, head) is on that device inside this context."""
    inside = {id(tensor) for block in blocks for tensor in chain(block.module.parameters(), block.module.buffers())}
    rest = [tensor for tensor in chain(model.parameters(), model.buffers()) if id(tensor) not in inside]
    homes = [tensor.device for tensor in rest]
    try:
        for tensor in rest:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, home in zip(rest, homes, strict=True):
            tensor.data = tensor.data.to(home)


def context_length(model: nn.Module) -> int | None:
    """The longest sequence that the model is made for, as its configuration says; None if it does not."""
    # Of a model that sees, the configuration of its language tower.
    config: Any = model.config
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) else None
