"""What a solver is, and the registry of solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..calibration.statistics import LinearStatistics, Need
from ..registry import Registry
from ..scores.base import Importance

SolverFunction = Callable[[Tensor, Tensor, Importance, LinearStatistics], Tensor]


@dataclass(frozen=True)
class Solver:
    """A registered solver: its function and the statistics it needs."""

    function: SolverFunction
    needs: frozenset[Need]


SOLVERS: Registry[Solver] = Registry("solver")


def register_solver(name: str, *, needs: Iterable[Need] = ()) -> Callable[[SolverFunction], SolverFunction]:
    """Register ``function(weight, prune_count, importance, statistics) -> kept`` under a name.

    It prunes ``weight`` [R, C] in place, exactly ``prune_count`` int32 [R] weights of each row, and returns
    what it kept: uint8 [R, ceil(C/8)], bit 1 = kept, little bit order.
    """

    def add(function: SolverFunction) -> SolverFunction:
        SOLVERS.register(name, Solver(function, frozenset(needs)))
        return function

    return add
