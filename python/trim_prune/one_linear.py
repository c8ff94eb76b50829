"""One linear without the walk over a model: for tests of plug-ins, and for pruners that walk on their own."""

from __future__ import annotations

from torch import Tensor

from .calibration.statistics import LinearStatistics, Need, search_positions, without_padding
from .recipe import Recipe
from .scores import SCORES, Importance, ScoreRequest
from .solvers import SOLVERS, SolveRequest


def score_linear(recipe: Recipe, weight: Tensor, inputs: Tensor, token_mask: Tensor | None = None) -> Importance:
    """How important the recipe's score finds the weights [R, C] of a linear with inputs [sequences, tokens, C].

    ``token_mask``: bool [sequences, tokens], True for the tokens that are not padding; None: all of them.
    """
    score = SCORES.get(recipe.score)
    return score.function(ScoreRequest(weight, _statistics(recipe, inputs, token_mask, score.needs), recipe))


def solve_linear(
    recipe: Recipe, weight: Tensor, inputs: Tensor, prune_count: Tensor, token_mask: Tensor | None = None
) -> Tensor:
    """Prune a weight [R, C] with inputs [sequences, tokens, C] in place, by the recipe's score and solver.

    ``prune_count``: int32 [R], of each row. ``token_mask``: as in :func:`score_linear`. Returns what is kept: uint8
    [R, ceil(C/8)], bit 1 = kept.
    """
    score, solver = SCORES.get(recipe.score), SOLVERS.get(recipe.solver)
    statistics = _statistics(recipe, inputs, token_mask, score.needs | solver.needs)
    importance = score.function(ScoreRequest(weight, statistics, recipe))
    return solver.function(SolveRequest(weight, prune_count, False, importance, statistics, recipe))


def _statistics(recipe: Recipe, inputs: Tensor, token_mask: Tensor | None, needs: frozenset[Need]) -> LinearStatistics:
    """Only what was declared is there, as in the engine; the dense model has the same inputs."""
    statistics = LinearStatistics()
    for sequences in without_padding(inputs, token_mask):
        positions = search_positions(sequences.shape[1], recipe.tokens_per_sequence)
        statistics.add(sequences, needs, positions, dense=sequences)
    return statistics
