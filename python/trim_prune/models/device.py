"""Where to compute: the device that a name stands for, and the mode in which a model computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, groupby
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
def on_device(block: Block, device: torch.device | None = None) -> Iterator[None]:
    """The block's weights lie on that device inside this context, and afterwards where they were: in memory or a store.

    ``device``: None: where they are, or the CPU. What is changed in the weights of a block with a store is lost
    afterwards.
    """
    home = home_of(block)
    try:
        if block.store is not None:
            block.store.fetch(block, device or home)
        elif device is not None:
            block.module.to(device)
        yield
    finally:
        if block.store is not None:
            block.store.drop(block)
        elif device is not None:
            block.module.to(home)


def home_of(block: Block) -> torch.device:
    """Where in memory the block is when no device has it; the CPU for one whose weights are in a store."""
    return torch.device("cpu") if block.store is not None else next(block.module.parameters()).device


def parameters_of(model: nn.Module, blocks: Sequence[Block]) -> Iterator[tuple[str, nn.Parameter]]:
    """As ``model.named_parameters()``; those of a block can be read until the first of another one is handed out."""
    owner = {f"{block.name}.{name}": block for block in blocks for name, _ in block.module.named_parameters()}
    for block, names in groupby((name for name, _ in model.named_parameters()), key=owner.get):
        with on_device(block) if block is not None else nullcontext():
            for name in names:
                yield name, model.get_parameter(name)


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
