"""An order of a linear's columns, folded into the linears before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Move(NamedTuple):
    """A parameter whose entries along ``dim`` come from the places ``origin``, int64."""

    parameter: str
    dim: int
    origin: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The parameter's values, moved."""
        return values.index_select(self.dim, self.origin.to(values.device))


@dataclass(frozen=True)
class Fold:
    """A linear whose columns may come in another order if the rows of the linears that feed them do too.

    Its columns are heads x repeats x width, the rows of each producer heads x width: the queries that share a key and
    value head read the same values. All columns are one head where there are none. Names are those within the block.
    """

    consumer: str
    producers: tuple[str, ...]
    width: int
    heads: int = 1
    repeats: int = 1

    def columns(self, order: Tensor) -> Tensor:
        """int64 [C]: where the consumer's columns come from; ``order`` int64 [heads, width], of each head."""
        first = self.width * torch.arange(self.heads * self.repeats, device=order.device)
        return (order[:, None] + first.view(self.heads, self.repeats, 1)).flatten()

    def moves(self, block: nn.Module, order: Tensor) -> list[Move]:
        """What has to move for the block to be the same function as before; parameters by their names within it."""
        rows = (order + self.width * torch.arange(self.heads, device=order.device)[:, None]).flatten()
        return [
            Move(f"{self.consumer}.weight", 1, self.columns(order)),
            *(
                Move(f"{producer}.{name}", 0, rows)
                for producer in self.producers
                for name, _ in block.get_submodule(producer).named_parameters()
            ),
        ]


def apply(block: nn.Module, moves: Iterable[Move]) -> None:
    """Move parameters of a block in place."""
    for move in moves:
        parameter = block.get_parameter(move.parameter).data
        parameter.copy_(move.of(parameter))
