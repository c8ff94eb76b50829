"""What of a model, and of the work that is to be done with it, memory and time depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ..models.discover import Block, Linear
from ..models.dry_run import by_kind, shared_inputs
from ..recipe import Recipe
from .forward import Workspace, forward_workspace


@dataclass(frozen=True)
class Subject:
    """A model with the sequences that calibrate it; its parameters may be without data.

    ``streamed``: whether its blocks are read one by one, and never lie in memory together. ``written``: whether there
    is an output folder. ``stored``: bytes of a value in the files, None: as computed. ``sequences`` of ``tokens`` each;
    0 of them if nothing calibrates.
    """

    model: nn.Module
    blocks: Sequence[Block]
    recipe: Recipe
    device: torch.device
    streamed: bool
    written: bool
    sequences: int
    tokens: int
    stored: int | None = None

    @property
    def linears(self) -> list[Linear]:
        """All linears, block by block."""
        return [linear for block in self.blocks for linear in block.linears]

    @cached_property
    def element(self) -> int:
        """Bytes of a value of the model as it is computed."""
        return max(linear.whole.element_size() for linear in self.linears)

    @cached_property
    def hidden_size(self) -> int:
        """Values of a hidden state: what the first linear of the model takes in."""
        return self.blocks[0].linears[0].shape[1]

    @cached_property
    def kind_counts(self) -> Mapping[Block, int]:
        """One of the blocks of each kind, and how many there are of it."""
        return {alike[0]: len(alike) for alike in by_kind(self.blocks).values()}

    @cached_property
    def groups(self) -> Mapping[Block, Sequence[Sequence[Linear]]]:
        """Of each kind of block, the linears that share an input; each alone where that cannot be told."""
        shared = shared_inputs(self.model, self.blocks) or {}
        found: dict[Block, Sequence[Sequence[Linear]]] = {}
        for block in self.kind_counts:
            inputs: dict[object, list[Linear]] = {}
            for linear in block.linears:
                alone = linear.routed or linear not in shared
                inputs.setdefault(linear if alone else shared[linear], []).append(linear)
            found[block] = list(inputs.values())
        return found

    @cached_property
    def workspace(self) -> Workspace:
        """What the forward of a block takes beside its weights."""
        return forward_workspace(self.model, self.blocks, self.tokens)

    @cached_property
    def bytes_outside(self) -> int:
        """Of the parameters outside the blocks."""
        inside = {id(parameter) for block in self.blocks for parameter in block.module.parameters()}
        return sum(bytes_of(parameter) for parameter in self.model.parameters() if id(parameter) not in inside)

    @cached_property
    def bytes_of_blocks(self) -> int:
        """Of the parameters of all blocks."""
        return sum(block_bytes(block) for block in self.blocks)


def block_bytes(block: Block) -> int:
    """Of the parameters of a block."""
    return sum(bytes_of(parameter) for parameter in block.module.parameters())


def bytes_of(tensor: torch.Tensor) -> int:
    """Of its values."""
    return tensor.numel() * tensor.element_size()
