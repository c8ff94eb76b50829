"""What becomes of linears whose inputs have been measured: correct, decide, apply, measure what is lost.

Where several processes prune together, each of these is divided among them: by rows where what becomes of a row depends
on that row alone, else by linears. One process does the same parts one after the other, so the bits are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trim_kernels import unpack_bits

from .budget import Budget
from .budgets.rows import ROW_BUDGETS, RowDecision, RowRequest
from .calibration.statistics import UNSEEN, LinearStatistics
from .correction import corrected
from .errors import TrimPruneError
from .fallbacks import refuse_fallback
from .models.discover import Linear
from .models.masks import add_mask
from .output_error import error_inputs, output_error
from .pattern import Keep
from .results import LinearResult
from .scores import SCORES, Importance, ScoreRequest
from .solvers import SOLVERS, SolveRequest
from .team import Part, Team, row_parts
from .timing import Timings

if TYPE_CHECKING:
    from .engine import Plan
    from .recipe import Recipe

AT_ONCE = 8
"""Linears that several processes divide among themselves: all of a block without experts."""
FIGURES = ("quality", "baseline_quality", "learning_rate", "iteration", "rounded")
"""What a row budget tells beside its counts."""


@dataclass
class _Work:
    """One linear: its weight [R, C], contiguous, in hand; the weight before, if what is lost is to be measured."""

    linear: Linear
    weight: Tensor
    statistics: LinearStatistics
    recipe: Recipe
    budget: Budget
    gradient: Tensor | None
    dense: Tensor | None = None
    steps: dict[str, None] = field(default_factory=dict)

    @cached_property
    def importance(self) -> Importance:
        return SCORES.get(self.recipe.score).function(ScoreRequest(self.weight, self.statistics, self.recipe))

    @contextmanager
    def located(self) -> Iterator[None]:
        """An error inside this context is that of the linear."""
        try:
            yield
        except ValueError as error:
            raise TrimPruneError(str(error), where=f"block {self.linear.block}, {self.linear.name}") from error

    def note(self, steps: Sequence[str]) -> None:
        """Fallbacks that some process had to take; those of the statistics are the same for all that took them."""
        self.steps |= dict.fromkeys(steps)


def prune_linears(
    plan: Plan,
    linears: Sequence[Linear],
    statistics: Callable[[Linear], LinearStatistics],
    masks: dict[str, Tensor],
    timings: Timings,
) -> list[LinearResult]:
    """Prune linears of one block in place, add what is kept to the masks, and tell what was done, linear by linear."""
    step, results = 1 if plan.team.size == 1 else AT_ONCE, []
    for first in range(0, len(linears), step):
        start, some = time.perf_counter(), linears[first : first + step]
        with ExitStack() as stack:
            works = [_work(plan, linear, stack.enter_context(linear.edited()), statistics(linear)) for linear in some]
            done = _prune(works, plan.team, plan.recipe, masks, timings)
        seconds = (time.perf_counter() - start) / len(some)
        results += [LinearResult(**facts, seconds=seconds) for facts in done]
    return results


def _work(plan: Plan, linear: Linear, weight: Tensor, statistics: LinearStatistics) -> _Work:
    assert plan.budgets is not None
    dense = None if error_inputs(plan.recipe.needs) is None else weight.clone()
    budget, gradient = plan.budgets[linear], plan.output_gradients.get(linear)
    return _Work(linear, weight, statistics, plan.recipe, budget, gradient, dense)


def _prune(
    works: Sequence[_Work], team: Team, recipe: Recipe, masks: dict[str, Tensor], timings: Timings
) -> list[dict[str, Any]]:
    if recipe.correction:
        with timings.phase("correct"):
            _correct([work for work in works if not work.linear.routed], team)
    with timings.phase("search"):
        decisions = _decide(works, team, recipe)
    with timings.phase("apply"):
        kept = _solve(works, decisions, team, recipe)
        counts = [_checked(work, decision, mask) for work, decision, mask in zip(works, decisions, kept, strict=True)]
    with timings.phase("measure"):
        errors = _measure(works, team)
    for work, mask in zip(works, kept, strict=True):
        refuse_fallback(recipe, work.linear, work.steps)
        add_mask(masks, work.linear, mask.cpu())
    return [
        _facts(work, decision, count, error)
        for work, decision, count, error in zip(works, decisions, counts, errors, strict=True)
    ]


def _correct(works: Sequence[_Work], team: Team) -> None:
    parts = [(work, rows) for work in works for rows in row_parts(len(work.weight))]

    def correct(index: int) -> Part:
        work, rows = parts[index]
        with work.located():
            new = corrected(work.weight[rows], work.statistics, work.recipe.correction, work.recipe.damping)
        return list(work.statistics.steps), [new]

    found = team.divide([work.weight[rows].numel() for work, rows in parts], correct)
    for (work, rows), (steps, (new,)) in zip(parts, found, strict=True):
        work.weight[rows] = new
        work.note(steps)


def _decide(works: Sequence[_Work], team: Team, recipe: Recipe) -> list[RowDecision]:
    """How many weights of each row go."""
    budget = ROW_BUDGETS.get(recipe.rows)

    def decide(work: _Work, **options: Any) -> RowDecision:
        count, name = work.budget.prune_count, work.linear.name
        with work.located():
            request = RowRequest(
                work.weight, work.importance, work.statistics, count, recipe, name, work.gradient, **options
            )
            decision = budget.function(request)
            pruned = int(decision.prune_count.sum())
            if pruned != count and not decision.rounded:
                raise ValueError(f"row budget {recipe.rows!r} prunes {pruned} weights in place of the asked {count}")
        work.note(work.statistics.steps)
        return decision

    def part(index: int) -> Part:
        decision = decide(works[index])
        figures = {name: getattr(decision, name) for name in FIGURES}
        return [figures, list(works[index].steps)], [decision.prune_count]

    if budget.together:
        return [decide(work, by_rows=team.by_rows) for work in works]
    decisions = []
    for work, ((figures, steps), (counts,)) in zip(works, team.divide(_sizes(works), part), strict=True):
        work.note(steps)
        decisions.append(RowDecision(counts, **figures))
    return decisions


def _solve(works: Sequence[_Work], decisions: Sequence[RowDecision], team: Team, recipe: Recipe) -> list[Tensor]:
    """Prune, and return what is kept: uint8 [R, ceil(C/8)], bit 1 = kept."""
    solver, compete = SOLVERS.get(recipe.solver), ROW_BUDGETS.get(recipe.rows).rows_compete
    divided = "linears" if solver.divided == "rows" and compete else solver.divided
    parts = [
        (number, rows)
        for number, work in enumerate(works)
        for rows in (row_parts(len(work.weight)) if divided == "rows" else [slice(0, len(work.weight))])
    ]

    def solve(index: int) -> Part:
        number, rows = parts[index]
        work, decision = works[number], decisions[number]
        with work.located():
            request = _request(work, decision, rows, compete)
            kept = solver.function(request)
            if not torch.isfinite(request.weight).all():
                raise ValueError(f"solver {recipe.solver!r} leaves NaN or infinity in the weights")
        return [*work.statistics.steps, *request.steps], [request.weight, kept]

    if divided == "not":
        found = [solve(index) for index in range(len(parts))]
    else:
        found = team.divide([works[number].weight[rows].numel() for number, rows in parts], solve)
    kept: list[list[Tensor]] = [[] for _ in works]
    for (number, rows), (steps, (weight, mask)) in zip(parts, found, strict=True):
        works[number].note(steps)
        kept[number].append(mask)
        own = works[number].weight[rows]
        if weight.data_ptr() != own.data_ptr():
            own.copy_(weight)
    return [masks[0] if len(masks) == 1 else torch.cat(masks) for masks in kept]


def _request(work: _Work, decision: RowDecision, rows: slice, compete: bool) -> SolveRequest:
    importance = work.importance
    score = None if importance.score is None else importance.score[rows]
    # A budget may have counted on the CPU.
    counts = decision.prune_count.to(work.weight.device)[rows]
    part = Importance(importance.column_scale, score)
    return SolveRequest(work.weight[rows], counts, compete, part, work.statistics, work.recipe, work.budget.pattern)


def _measure(works: Sequence[_Work], team: Team) -> list[float | None]:
    """What the prune changed in the outputs."""

    def measure(index: int) -> Part:
        work = works[index]
        assert work.dense is not None
        return output_error(work.dense, work.weight, work.statistics, error_inputs(work.recipe.needs)), []

    if any(work.dense is None for work in works):
        return [None] * len(works)
    return [error for error, _ in team.divide(_sizes(works), measure)]


def _sizes(works: Sequence[_Work]) -> list[int]:
    return [work.weight.numel() for work in works]


def _facts(work: _Work, decision: RowDecision, counts: Tensor, error: float | None) -> dict[str, Any]:
    """A result but for its time."""
    budget, pruned = work.budget, int(decision.prune_count.sum())
    zeros = work.weight.numel() - int(torch.count_nonzero(work.weight))
    return {
        "name": work.linear.name,
        "weight": work.linear.weight_name,
        "block": work.linear.block,
        "shape": work.linear.shape,
        "prune_count": pruned,
        "pattern": None if budget.pattern is None else str(budget.pattern),
        "row_min": int(counts.min()),
        "row_max": int(counts.max()),
        "kept_zeros": zeros - pruned,
        "quality": decision.quality,
        "baseline_quality": decision.baseline_quality,
        "learning_rate": decision.learning_rate,
        "iteration": decision.iteration,
        "output_error": error,
        "steps": tuple(work.steps),
        "tokens": 0 if UNSEEN in work.steps else work.statistics.tokens if work.recipe.needs else None,
    }


def _checked(work: _Work, decision: RowDecision, kept: Tensor) -> Tensor:
    """How many weights of each row the solver pruned; an error if that is not what it was asked to do, or not done."""
    recipe, weight, pattern = work.recipe, work.weight, work.budget.pattern
    compete, counts = ROW_BUDGETS.get(recipe.rows).rows_compete, decision.prune_count.to(weight.device)
    with work.located():
        return _checked_counts(
            kept, SolveRequest(weight, counts, compete, Importance(), work.statistics, recipe, pattern)
        )


def _checked_counts(kept: Tensor, request: SolveRequest) -> Tensor:
    """How many weights of each row the solver pruned; an error if that is not what it was asked to do, or not done."""
    columns, asked = request.weight.shape[1], request.prune_count
    pruned = unpack_bits(kept, columns).logical_not_()
    counts = pruned.sum(dim=1, dtype=torch.int32)
    right = int(counts.sum()) == int(asked.sum()) if request.rows_compete else torch.equal(counts, asked)
    if not right:
        raise ValueError(
            f"solver {request.recipe.solver!r} prunes {int(counts.sum())} weights in place of the asked "
            f"{int(asked.sum())}, or other counts of the rows"
        )
    if request.pattern is not None:
        _check_pattern(unpack_bits(kept, columns), request.pattern, request.recipe.solver)
    left = int(pruned.logical_and_(request.weight != 0).sum())
    if left:
        raise ValueError(f"solver {request.recipe.solver!r}: {left} weights that its mask prunes are not zero")
    return counts


def _check_pattern(kept: Tensor, pattern: Keep, solver: str) -> None:
    """An error unless every group of columns keeps what it should: all but the last one, whose count is then right."""
    whole = kept.shape[1] // pattern.of * pattern.of
    found = kept[:, :whole].reshape(len(kept), -1, pattern.of).sum(dim=2)
    if bool((found != pattern.keep).any()):
        raise ValueError(f"solver {solver!r} keeps {int(found.min())} to {int(found.max())} where {pattern} was asked")
