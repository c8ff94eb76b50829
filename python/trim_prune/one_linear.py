"""One linear without the walk over a model: for tests of plug-ins, and for pruners that walk on their own."""

from __future__ import annotations

from torch import Tensor

from .calibration.statistics import LinearStatistics, Need, search_positions
from .recipe import Recipe
from .scores import SCORES, Importance, ScoreRequest
from .solvers import SOLVERS, SolveRequest


def score_linear(recipe: Recipe, weight: Tensor, inputs: Tensor) -> Importance:
    """How important the recipe's score finds the weights [R, C] of a linear with inputs [sequences, tokens, C]."""
    score = SCORES.get(recipe.score)
    return score.function(ScoreRequest(weight, _statistics(recipe, inputs, score.needs), recipe))


def solve_linear(recipe: Recipe, weight: Tensor, inputs: Tensor, prune_count: Tensor) -> Tensor:
    """Prune a weight [R, C] with inputs [sequences, tokens, C] in place, by the recipe's score and solver.

    ``prune_count``: int32 [R], of each row. Returns what is kept: uint8 [R, ceil(C/8)], bit 1 = kept.
    """
    score, solver = SCORES.get(recipe.score), SOLVERS.get(recipe.solver)
    statistics = _statistics(recipe, inputs, score.needs | solver.needs)
    importance = score.function(ScoreRequest(weight, statistics, recipe))
    return solver.function(SolveRequest(weight, prune_count, False, importance, statistics, recipe))


def _statistics(recipe: Recipe, inputs: Tensor, needs: frozenset[Need]) -> LinearStatistics:
    """Only what was declared is there, as in the engine; the dense model has the same inputs."""
    statistics = LinearStatistics()
    statistics.add(inputs, needs, search_positions(inputs.shape[1], recipe.tokens_per_sequence), dense=inputs)
    return statistics
