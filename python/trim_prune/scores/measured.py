"""A score outside of the engine: for tests of plug-ins, and for pruners that only want the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..calibration.statistics import LinearStatistics, search_positions
from .base import SCORES, Importance, ScoreRequest

if TYPE_CHECKING:
    from ..recipe import Recipe


def measured_importance(recipe: Recipe, weight: Tensor, inputs: Tensor) -> Importance:
    """What the recipe's score says of a weight [R, C] whose inputs are [sequences, tokens, C].

    Only the statistics that the score declares in its ``needs`` are there; search inputs are the last tokens.
    """
    score = SCORES.get(recipe.score)
    statistics = LinearStatistics()
    statistics.add(inputs, score.needs, search_positions(inputs.shape[1], 1))
    return score.function(ScoreRequest(weight, statistics, recipe))
