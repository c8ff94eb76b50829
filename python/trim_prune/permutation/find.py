"""Find the linears whose columns may be reordered: candidates by name, each of them tried on its block."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import TrimPruneError
from ..models.capture import PROBE_TOKENS, Call, Capture
from ..models.device import evaluation_mode, on_device
from ..models.discover import Block, Linear, find_linears
from ..models.watch import one_by_one
from ..pattern import Pattern
from .fold import Fold, apply

CHANNELS = {"down_proj": ("gate_proj", "up_proj"), "fc2": ("fc1",), "dense_4h_to_h": ("dense_h_to_4h",)}
"""Linears that end a feed-forward part, and those whose outputs reach them element by element."""
HEADS = {"o_proj": ("v_proj",), "out_proj": ("v_proj",)}
"""Linears that end an attention, and those that make its values."""
TOLERANCE = 1e-5
"""Share of the largest output by which outputs may differ: some modules of a float64 block compute in float32."""


@dataclass(frozen=True)
class Folds:
    """Where columns may be reordered; ``refused``: how many candidates may not, by reason."""

    of: Mapping[Linear, Fold]
    refused: Mapping[str, int]


@torch.no_grad()
def find_folds(model: nn.Module, blocks: Sequence[Block], pattern: Pattern) -> Folds:
    """Try every candidate on a float64 copy of its block, in a random order, on random hidden states.

    What the linear and the block put out must stay the same. Orders do not mix heads, so the groups of the pattern have
    to divide a head.

    Raises:
        TrimPruneError: the model has no linear whose columns may be reordered.
    """
    found: dict[Linear, Fold] = {}
    refused: Counter[str] = Counter()
    tokens = torch.arange(PROBE_TOKENS)[None]
    with evaluation_mode(model):
        captured = Capture(model, blocks, tokens)(tokens)
        for block in blocks:
            linears = _plain_linears(block)
            folds = []
            for candidate in _candidates(block.module, linears, pattern):
                if isinstance(candidate, Fold):
                    folds.append(candidate)
                else:
                    refused[candidate] += 1
            with on_device(block):
                for fold, exact in _tried(block, folds, captured.calls[block.index], captured.hidden):
                    if exact:
                        found[linears[fold.consumer]] = fold
                    else:
                        refused[f"{_last(fold.consumer)}: in another order the block computes something else"] += 1
    if not found:
        raise TrimPruneError(
            "permute: the columns of no linear of this model can be reordered",
            expected=f"one of {', '.join((*CHANNELS, *HEADS))}, fed by linears beside it",
            got="; ".join(refused) or "linears of other names",
            fix="go without permute",
        )
    return Folds(found, refused)


def _candidates(block: nn.Module, linears: Mapping[str, Linear], pattern: Pattern) -> Iterator[Fold | str]:
    """What names suggest, or why the shapes do not allow it."""
    for name, linear in linears.items():
        last, beside = _last(name), name.removesuffix(_last(name))
        feeding = (HEADS | CHANNELS).get(last, ())
        producers = tuple(f"{beside}{other}" for other in feeding if f"{beside}{other}" in linears)
        if not producers:
            continue
        columns, rows = linear.shape[1], {linears[producer].shape[0] for producer in producers}
        attention = block.get_submodule(beside.removesuffix("."))
        width = getattr(attention, "head_dim", None) if last in HEADS else columns
        repeats = columns // max(rows)
        if not isinstance(width, int):
            yield f"{last}: its attention does not say how wide a head is"
        elif any(count % width or count * repeats != columns for count in rows):
            yield f"{last}: {columns} columns are not fed by {', '.join(map(str, rows))} rows in heads of {width}"
        elif last in HEADS and width % pattern.of:
            yield f"{last}: groups of {pattern.of} columns do not divide a head of {width}"
        else:
            yield Fold(name, producers, width, max(rows) // width, repeats)


def _plain_linears(block: Block) -> dict[str, Linear]:
    """The linears that are modules with a weight [R, C] and nothing around it, by their names in the block."""
    modules = dict(block.module.named_modules())
    named = {linear.name.removeprefix(f"{block.name}."): linear for linear in block.linears}
    return {
        name: linear
        for name, linear in named.items()
        if isinstance(linear.module, nn.Linear) and modules.get(name) is linear.module
    }


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _tried(block: Block, folds: Sequence[Fold], call: Call, hidden: Tensor) -> Iterator[tuple[Fold, bool]]:
    """Whether each fold leaves the block as it is."""
    if not folds:
        return
    cpu, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    module, call = copy.deepcopy(block.module).to(cpu, torch.float64), call.to(cpu, torch.float64)
    hidden = torch.randn(hidden.shape, generator=generator, dtype=torch.float64)
    linears = find_linears(module, block.name, block.index)
    for fold in folds:
        order = torch.stack([torch.randperm(fold.width, generator=generator) for _ in range(fold.heads)])
        # Grouped products of all experts at once are not there in float64.
        with one_by_one(linears):
            before = _outputs(module, fold, call, hidden)
            apply(module, fold.moves(module, order))
            after = _outputs(module, fold, call, hidden)
        apply(module, fold.moves(module, order.argsort(dim=1)))
        # A linear that the block did not call has put out nothing that could differ.
        yield fold, len(before) > 1 and all(map(_same, after, before))


def _outputs(module: nn.Module, fold: Fold, call: Call, hidden: Tensor) -> list[Tensor]:
    """Those of the consumer, then that of the block: beside large residuals a change of the consumer's would hide."""
    outputs: list[Tensor] = []
    handle = module.get_submodule(fold.consumer).register_forward_hook(lambda *args: outputs.append(args[-1]))
    try:
        outputs.append(call.run(module, hidden, hidden.device))
    finally:
        handle.remove()
    return outputs


def _same(after: Tensor, before: Tensor) -> bool:
    return bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
