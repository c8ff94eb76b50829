"""Which linears are handed the same input, found by a forward of a model that has no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from .capture import PROBE_TOKENS, forwards
from .device import evaluation_mode
from .discover import Block, Linear
from .watch import watched


@torch.no_grad()
def shared_inputs(model: nn.Module, blocks: Sequence[Block]) -> dict[Linear, int] | None:
    """A number for the tensor that each linear is handed: equal for those of a block that share their input.

    What is on the meta device is zero for the time of its use. The first of several blocks that are alike runs, the
    others give what it gave; so there are numbers only for the linears of blocks that ran. None if the model cannot be
    run so.
    """
    found: dict[Linear, int] = {}
    outputs: dict[object, Any] = {}
    # Held, so that no two of them can be the same object.
    seen: list[Tensor] = []

    def note(linear: Linear, inputs: Tensor, _: Tensor) -> None:
        seen.append(inputs)
        found.setdefault(linear, id(inputs))

    def alike(index: int) -> Callable[..., Any]:
        block, original = blocks[index], blocks[index].module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            kind = kind_of(block)
            if kind not in outputs:
                with zeros([block.module]), watched(block.linears, note):
                    outputs[kind] = original(*args, **kwargs)
            if block is blocks[-1]:
                raise _EndError
            return outputs[kind]

        return forward

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(zeros(outside(model, blocks), recurse=False))
        stack.enter_context(forwards(blocks, alike))
        stack.enter_context(suppress(_EndError))
        tokens = torch.zeros(1, PROBE_TOKENS, dtype=torch.int64)
        try:
            model(input_ids=tokens, use_cache=False)
        except _EndError:
            raise
        except Exception:
            # Anything that an unknown model raises when what it is given are zeros.
            return None
    return found


def outside(model: nn.Module, blocks: Sequence[Block]) -> list[nn.Module]:
    """The modules of a model that are in none of its blocks."""
    inside = {id(module) for block in blocks for module in block.module.modules()}
    return [module for module in model.modules() if id(module) not in inside]


def kind_of(block: Block) -> tuple[Any, ...]:
    """What blocks that are alike have in common: their class, and the names and shapes of their linears."""
    linears = tuple((linear.name.removeprefix(block.name), linear.shape) for linear in block.linears)
    return type(block.module).__name__, linears


class _EndError(Exception):
    """Ends the forward at the last block."""


@contextmanager
def zeros(modules: Sequence[nn.Module], *, recurse: bool = True) -> Iterator[None]:
    """Parameters and buffers without data are zero inside this context: one zero each, so that they take no memory."""
    owners = [part for module in modules for part in (module.modules() if recurse else [module])]
    tables: list[dict[str, Any]] = [table for owner in owners for table in (owner._parameters, owner._buffers)]
    empty = [(table, name, value) for table in tables for name, value in table.items() if value is not None]
    empty = [(table, name, value) for table, name, value in empty if value.is_meta]
    try:
        for table, name, value in empty:
            zeros = torch.zeros((), dtype=value.dtype).expand(value.shape)
            table[name] = nn.Parameter(zeros, requires_grad=False) if isinstance(value, nn.Parameter) else zeros
        yield
    finally:
        for table, name, value in empty:
            table[name] = value
