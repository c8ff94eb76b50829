"""What processes that prune one model together can ask of one another; alone, the process does all of it itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import TrimPruneError
from .groups import divided, groups_of, row_parts
from .sums import Node, OrderedSum

T = TypeVar("T")
Part = tuple[Any, list[Tensor]]
"""What came of a part of the work: plain values, as in JSON, and tensors."""


class RankError(TrimPruneError):
    """Another rank of the run has ended, and so this one does; what is wrong is told by that one, if it still can."""


class Team:
    """The processes ("ranks") that prune one model, seen from one of them: number ``rank`` of ``size``, from 0.

    Every rank runs the same code over the same blocks. Each forward sees only the sequences of its own groups; what is
    measured there is added up in a fixed order and known to all; what is found out about linears is divided; weights
    are the same everywhere. Methods are called by all ranks, in the same order. This class is one process alone.
    """

    size = 1
    rank = 0
    on_machine = 1
    """Ranks that share the memory of this one's machine."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def groups(self, sequences: int) -> list[tuple[int, range]]:
        """This rank's groups of so many sequences: their numbers, and the sequences of each."""
        groups = groups_of(sequences)
        return [(number, groups[number]) for number in divided(len(groups), self.size)[self.rank]]

    def exchange(self, value: Any) -> list[Any]:
        """The plain value of each rank, known to all."""
        return [value]

    def lead(self, work: Callable[[], T]) -> T:
        """What the first rank finds out, a plain value; the others wait for it."""
        return work()

    def divide(self, costs: Sequence[float], work: Callable[[int], Part]) -> list[Part]:
        """``work(i)`` for each of the costs, each done by one rank; what came of each, known to all."""
        return [work(index) for index in range(len(costs))]

    def by_rows(self, rows: int, work: Callable[[slice], Tensor]) -> Tensor:
        """What ``work`` makes of some rows, [these rows, ...], for all of them."""
        parts = row_parts(rows)
        found = self.divide([part.stop - part.start for part in parts], lambda index: (None, [work(parts[index])]))
        made = [tensor for _, (tensor,) in found]
        return made[0] if len(made) == 1 else torch.cat(made)

    def total(
        self,
        sums: OrderedSum,
        nodes: Sequence[Sequence[Node]],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> OrderedSum:
        """The sum over the groups of all ranks; ``nodes``: those that each rank has."""
        return sums

    def everyones(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of all ranks, in their order, known to all."""
        return list(tensors)

    def to_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of all ranks, in their order, on the CPU, for the first rank; nothing for the others."""
        return list(tensors)

    def from_first(self, tensors: Sequence[Tensor], wanted: int) -> list[Tensor]:
        """The tensors of the first rank, dealt out in order: so many to this rank."""
        return list(tensors)

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors, alike on all ranks, the values that they have on the first one."""

    def require(self, sequences: int) -> None:
        """An error if there are more ranks than groups of sequences."""
        groups = len(groups_of(sequences))
        if self.size > groups:
            raise TrimPruneError(
                "more ranks than groups of calibration sequences",
                expected=f"at most {groups} for {sequences} sequences: 8 groups at most, of 4 sequences at least",
                got=f"{self.size} ranks",
                fix="start fewer, or give more --samples",
            )


ALONE = Team()
