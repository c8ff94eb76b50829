"""Forwards of a model that has no weights; by one of them, which linears are handed the same input."""

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

Forward = Callable[..., Any]


@torch.no_grad()
def shared_inputs(model: nn.Module, blocks: Sequence[Block]) -> dict[Linear, int] | None:
    """A number for the tensor that each linear is handed: equal for those of a block that share their input.

    What is on the meta device is zero for the time of its use. The first of several blocks that are alike runs, the
    others give what it gave; so there are numbers only for the linears of blocks that ran. None if the model cannot be
    run so.
    """
    found: dict[Linear, int] = {}
    # Held, so that no two of them can be the same object.
    seen: list[Tensor] = []

    def note(linear: Linear, inputs: Tensor, _: Tensor) -> None:
        seen.append(inputs)
        found.setdefault(linear, id(inputs))

    def run(block: Block, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with zeros([block.module]), watched(block.linears, note):
            return forward(*args, **kwargs)

    try:
        run_kinds(model, blocks, torch.zeros(1, PROBE_TOKENS, dtype=torch.int64), run)
    except Exception:
        # Anything that an unknown model raises when what it is given are zeros.
        return None
    return found


def run_kinds(
    model: nn.Module,
    blocks: Sequence[Block],
    token_ids: Tensor,
    run: Callable[[Block, Forward, tuple[Any, ...], dict[str, Any]], Any],
) -> None:
    """Run the model up to its last block; of several blocks that are alike the first runs, others give what it gave.

    ``run(block, forward, args, kwargs)`` is to give what the block does by its ``forward``. What is outside the blocks
    and on the meta device is zero meanwhile.
    """
    outputs: dict[object, Any] = {}

    def alike(index: int) -> Forward:
        block, original = blocks[index], blocks[index].module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            kind = kind_of(block)
            if kind not in outputs:
                outputs[kind] = run(block, original, args, kwargs)
            if block is blocks[-1]:
                raise _EndError
            return outputs[kind]

        return forward

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(zeros(outside(model, blocks), recurse=False))
        stack.enter_context(forwards(blocks, alike))
        stack.enter_context(suppress(_EndError))
        model(input_ids=token_ids, use_cache=False)


def outside(model: nn.Module, blocks: Sequence[Block]) -> list[nn.Module]:
    """The modules of a model that are in none of its blocks."""
    inside = {id(module) for block in blocks for module in block.module.modules()}
    return [module for module in model.modules() if id(module) not in inside]


def kind_of(block: Block) -> tuple[Any, ...]:
    """What blocks that are alike have in common: their class, and the names and shapes of their linears."""
    linears = tuple((linear.name.removeprefix(block.name), linear.shape) for linear in block.linears)
    return type(block.module).__name__, linears


def by_kind(blocks: Sequence[Block]) -> dict[object, list[Block]]:
    """The blocks that are alike, together."""
    found: dict[object, list[Block]] = {}
    for block in blocks:
        found.setdefault(kind_of(block), []).append(block)
    return found


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
