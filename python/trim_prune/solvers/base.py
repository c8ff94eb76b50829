"""What a solver is, and the registry of solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

import trim_kernels

from ..calibration.statistics import LinearStatistics, Need
from ..pattern import Keep
from ..registry import Registry
from ..scores.base import Importance

if TYPE_CHECKING:
    from ..recipe import Recipe


@dataclass(frozen=True)
class SolveRequest:
    """One linear, how important its weights are, and how many of each row go.

    ``prune_count``: int32 [R]. ``rows_compete``: only its sum binds, and a solver that chooses weights itself may take
    more from one row and less from another. ``pattern``: what each group of columns keeps, if the recipe has one.
    ``steps``: what the solver had to fall back to, for run.json.
    """

    weight: Tensor
    prune_count: Tensor
    rows_compete: bool
    importance: Importance
    statistics: LinearStatistics
    recipe: Recipe
    pattern: Keep | None = None
    steps: list[str] = field(default_factory=list)

    def mask(self) -> Tensor:
        """Bool [R, C]: all but the lowest scores of each row, or group; the mask that solvers begin with."""
        column_scale, score = self.importance.column_scale, self.importance.score
        if self.pattern is not None:
            return trim_kernels.nm_mask(self.weight, *self.pattern, column_scale=column_scale, score=score)
        return trim_kernels.row_mask(self.weight, self.prune_count, column_scale=column_scale, score=score)


SolverFunction = Callable[[SolveRequest], Tensor]
Divided = Literal["rows", "linears", "not"]


@dataclass(frozen=True)
class Solver:
    """A registered solver: its function, the statistics it needs, and whether it can keep a pattern.

    ``divided``: how several processes that prune together divide its work. "rows": what it does to a row depends on
    that row alone, unless rows compete; a request may be of some rows, and large matrices are always solved in the same
    parts. "linears": each linear is one process's. "not": it is so quick that every process does all of it.
    """

    function: SolverFunction
    needs: frozenset[Need]
    patterns: bool = False
    divided: Divided = "linears"


SOLVERS: Registry[Solver] = Registry("solver")


def register_solver(
    name: str, *, needs: Iterable[Need] = (), patterns: bool = False, divided: Divided = "linears"
) -> Callable[[SolverFunction], SolverFunction]:
    """Register ``function(request) -> kept`` under a name.

    It prunes ``request.weight`` [R, C] in place, ``request.prune_count`` weights of each row, and returns what it
    kept: uint8 [R, ceil(C/8)], bit 1 = kept, little bit order. The engine checks the counts, and with ``patterns`` that
    every group of columns keeps what ``request.pattern`` says.
    """

    def add(function: SolverFunction) -> SolverFunction:
        SOLVERS.register(name, Solver(function, frozenset(needs), patterns, divided))
        return function

    return add
