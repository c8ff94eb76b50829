"""Find the decoder blocks of a model and the linears inside them, by structure only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..errors import TrimPruneError


@dataclass(frozen=True, eq=False)
class Linear:
    """One weight matrix of a block; ``name`` is the module's path in the model."""

    name: str
    block: int
    module: nn.Linear

    @property
    def weight_name(self) -> str:
        """The name of the weight in the model's state dict."""
        return f"{self.name}.weight"

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.module.weight.numel()


class Store(Protocol):
    """Where the weights of blocks are while nobody needs them."""

    def fetch(self, block: Block, device: torch.device) -> None:
        """Put the weights of a block on a device."""

    def drop(self, block: Block) -> None:
        """Free them again; what was changed in them is lost."""


@dataclass(frozen=True, eq=False)
class Block:
    """One decoder layer of the model; ``store``: where its weights are, None: in memory, always."""

    index: int
    name: str
    module: nn.Module
    linears: tuple[Linear, ...]
    store: Store | None = None

    @property
    def coverage(self) -> float:
        """Share of the block's parameters that its linears hold."""
        return sum(linear.size for linear in self.linears) / sum(p.numel() for p in self.module.parameters())


def find_blocks(model: nn.Module, store: Store | None = None) -> list[Block]:
    """The decoder blocks: the longest ``nn.ModuleList`` of one class that contains ``nn.Linear``.

    A list inside the members of another one (the experts of a block, say) is never chosen. Embeddings and the
    output head lie outside the blocks and are never touched.
    """
    candidates = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len({type(member) for member in module}) == 1
        and any(isinstance(inner, nn.Linear) for inner in module.modules())
    }
    outermost = [
        name for name in candidates if not any(name.startswith(f"{other}.") for other in candidates if other != name)
    ]
    if not outermost:
        kinds = Counter(type(m).__name__ for m in model.modules() if list(m.parameters(recurse=False)))
        raise TrimPruneError(
            f"found no decoder blocks in {type(model).__name__}",
            expected="an nn.ModuleList whose members share one class and contain nn.Linear",
            got="modules with weights: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8)),
        )
    chosen = max(outermost, key=lambda name: (len(candidates[name]), _weights(candidates[name])))
    blocks = [
        Block(index, f"{chosen}.{index}" if chosen else str(index), module, ())
        for index, module in enumerate(candidates[chosen])
    ]
    blocks = [Block(b.index, b.name, b.module, _linears(b), store) for b in blocks]
    _refuse_shared_weights(blocks)
    return blocks


def _linears(block: Block) -> tuple[Linear, ...]:
    return tuple(
        Linear(f"{block.name}.{name}", block.index, module)
        for name, module in block.module.named_modules()
        if isinstance(module, nn.Linear)
    )


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _refuse_shared_weights(blocks: list[Block]) -> None:
    owner: dict[int, str] = {}
    for block in blocks:
        for linear in block.linears:
            first = owner.setdefault(id(linear.module.weight), linear.name)
            if first != linear.name:
                raise TrimPruneError(
                    "two linears share one weight, so pruning one would prune the other",
                    where=f"{first} and {linear.name}",
                    expected="a weight of its own in each linear",
                )
