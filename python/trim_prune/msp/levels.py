"""What the levels of a search stand for: weights kept of a group, or steps of a grid of sparsities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import trim_kernels

from ..budgets.rows import ROW_BUDGETS, RowRequest
from ..calibration.statistics import LinearStatistics, Need
from ..models.discover import Linear
from ..scores import SCORES, Importance, ScoreRequest
from .space import Levels, Space

if TYPE_CHECKING:
    from ..budgets.layers.base import LayerRequest
    from ..recipe import Recipe


LEAST_STEP = 1e-6
"""Steps of sparsity that are advised are multiples of it."""


@dataclass(frozen=True)
class Scale:
    """What levels mean: ``sparsities[level - 1]``, the denser the higher."""

    sparsities: tuple[float, ...]

    def sparsity(self, level: int) -> float:
        """The share of its weights that a unit loses at a level."""
        return self.sparsities[level - 1]


def make_space(request: LayerRequest, units: Sequence[Sequence[Linear]]) -> tuple[Space, Scale]:
    """The levels within ``msp.reach`` of the mean, and the vectors of them that meet the sparsity asked for.

    With a pattern a level is the number of weights kept of a group, at least one of them. Without one, levels are steps
    of ``msp.step`` in sparsity, from the target up and down, none above what the row budget takes from any linear.
    """
    options, pattern, sparsity = request.recipe.msp, request.recipe.pattern, request.sparsity
    costs = tuple(sum(linear.size for linear in unit) for unit in units)
    if pattern is not None:
        # 1 - 0.7 is a little more than 0.3.
        mean = round(pattern.of * (1 - sparsity), 9)
        low, high = max(1, math.ceil(mean - options.reach)), min(pattern.of, math.floor(mean + options.reach))
        # Half a weight more, since the count is a rounded number.
        budget = pattern.of * (sum(costs) - request.prune_count) + pattern.of // 2
        scale = Scale(tuple(1 - level / pattern.of for level in range(1, high + 1)))
        return Space(costs, low, high, budget), scale
    most = _most(request)
    steps = range(options.reach, -options.reach - 1, -1)
    grid = [sparsity + step * options.step for step in steps]
    inside = [index for index, value in enumerate(grid) if -1e-9 <= value <= most + 1e-9 or index == options.reach]
    scale = Scale(tuple(min(max(grid[index], 0.0), 1.0) for index in inside))
    target = inside.index(options.reach) + 1
    return Space(costs, 1, len(inside), target * sum(costs)), scale


def why_one_vector(request: LayerRequest) -> str:
    """Why a space holds no vector but the uniform one."""
    options, sparsity, most = request.recipe.msp, request.sparsity, _most(request)
    gap = min(sparsity, most - sparsity)
    if request.recipe.pattern is not None or gap < LEAST_STEP:
        return f"at sparsity {sparsity:g} all units have the same level"
    beyond = "less would be below 0"
    if gap < sparsity:
        beyond = f"more would be above {most:.6g}, the most that rows {request.recipe.rows!r} take from every linear"
    fitting = math.floor(gap / LEAST_STEP + 1e-3) * LEAST_STEP
    return f"from sparsity {sparsity:g} one msp.step of {options.step:g} {beyond}; give at most msp.step: {fitting:.6g}"


def _most(request: LayerRequest) -> float:
    """The sparsity that the row budget allows in every linear."""
    return min(limit / linear.size for limit, linear in zip(request.limits, request.linears, strict=True))


def rank_needs(recipe: Recipe) -> frozenset[Need]:
    """The statistics that :func:`rank_linear` reads."""
    rows = frozenset() if recipe.pattern is not None else ROW_BUDGETS.get(recipe.rows).needs
    return SCORES.get(search_score(recipe)).needs | rows


def search_score(recipe: Recipe) -> str:
    """The score that ranks weights in the search."""
    if recipe.msp.score is not None:
        return recipe.msp.score
    return "wanda" if recipe.score == "obs" else recipe.score


def rank_linear(
    recipe: Recipe, scale: Scale, linear: Linear, statistics: LinearStatistics, output_gradient: Tensor | None = None
) -> Tensor:
    """uint8 [R, C]: a weight stays at every level above its rank.

    With a pattern that is its rank in its group. Without one it is the number of levels at which the score and the row
    budget prune it.
    """
    weight = linear.weight.contiguous()
    importance = SCORES.get(search_score(recipe)).function(ScoreRequest(weight, statistics, recipe))
    if recipe.pattern is not None:
        return _group_ranks(weight, recipe.pattern.of, importance)
    rank = torch.zeros(weight.shape, dtype=torch.uint8, device=weight.device)
    for sparsity in scale.sparsities:
        count = round(sparsity * weight.numel())
        request = RowRequest(weight, importance, statistics, count, recipe, linear.name, output_gradient)
        counts = ROW_BUDGETS.get(recipe.rows).function(request).prune_count.to(weight.device)
        rank += ~trim_kernels.row_mask(weight, counts, column_scale=importance.column_scale, score=importance.score)
    return rank


def _group_ranks(weight: Tensor, of: int, importance: Importance) -> Tensor:
    rank = trim_kernels.nm_rank(weight, of, column_scale=importance.column_scale, score=importance.score)
    tail = weight.shape[1] % of
    if tail:
        # The shorter group keeps ceil(level * tail / of): those of rank * of / tail below the level.
        last = rank[:, -tail:]
        last.copy_(last.int() * of // tail)
    return rank


def sparsities_of(levels: Levels, scale: Scale, units: Sequence[Sequence[Linear]]) -> Mapping[Linear, float]:
    """The sparsity of every linear of a vector."""
    return {linear: scale.sparsity(level) for level, unit in zip(levels, units, strict=True) for linear in unit}
