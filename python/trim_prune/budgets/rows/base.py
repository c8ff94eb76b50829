"""What a row budget is, and the registry of row budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...calibration.statistics import LinearStatistics, Need
from ...registry import Registry
from ...scores.base import Importance
from ...team import ALONE

if TYPE_CHECKING:
    from ...recipe import Recipe


ByRows = Callable[[int, Callable[[slice], Tensor]], Tensor]


@dataclass(frozen=True)
class RowRequest:
    """One linear, and how many of its weights go in total.

    ``name``: its path in the model. ``output_gradient``: float32 [R], the mean squared gradient of the loss with
    respect to each output, see :func:`trim_prune.output_gradients.output_gradients`; None unless a row budget needs it.
    ``by_rows(R, work)``: what ``work(rows)`` gives for some rows at a time, joined; where several processes prune
    together, and the row budget is registered as ``together``, each of them has some of the rows.
    """

    weight: Tensor
    importance: Importance
    statistics: LinearStatistics
    prune_count: int
    recipe: Recipe
    name: str = ""
    output_gradient: Tensor | None = None
    by_rows: ByRows = ALONE.by_rows


@dataclass(frozen=True)
class RowDecision:
    """Prune counts int32 [R] and, where a search found them, how good it says they are.

    The counts sum to the request's ``prune_count``. ``rounded`` says that they follow a rounding of their own, asked
    for in the recipe, which may miss it.
    """

    prune_count: Tensor
    quality: float | None = None
    baseline_quality: float | None = None
    learning_rate: float | None = None
    iteration: int | None = None
    rounded: bool = False


RowFunction = Callable[[RowRequest], RowDecision]


def _whole_rows(columns: int, recipe: Recipe) -> int:
    return columns


@dataclass(frozen=True)
class RowBudget:
    """A registered row budget.

    ``row_limit(columns, recipe)`` is the most it takes from one row. ``rows_compete``: its counts say what the scores
    alone would take, and a solver that chooses weights itself may choose other counts of the same sum. ``together``: of
    several processes that prune together, all call it for each linear, and it divides the rows by ``request.by_rows``;
    otherwise one process does, for all of them.
    """

    function: RowFunction
    needs: frozenset[Need]
    row_limit: Callable[[int, Recipe], int]
    rows_compete: bool
    together: bool = False


ROW_BUDGETS: Registry[RowBudget] = Registry("row budget")


def register_row_budget(
    name: str,
    *,
    needs: Iterable[Need] = (),
    row_limit: Callable[[int, Recipe], int] = _whole_rows,
    rows_compete: bool = False,
    together: bool = False,
) -> Callable[[RowFunction], RowFunction]:
    """Register ``function(request) -> RowDecision`` under a name.

    ``row_limit`` lets the engine refuse an infeasible request before any work starts.
    ``trim_kernels.testing.check_row_budget`` says what else it owes.
    """

    def add(function: RowFunction) -> RowFunction:
        ROW_BUDGETS.register(name, RowBudget(function, frozenset(needs), row_limit, rows_compete, together))
        return function

    return add
