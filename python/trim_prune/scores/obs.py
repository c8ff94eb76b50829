"""OBS: the error that pruning a weight leaves when the later columns make up for it (SparseGPT, arXiv 2301.00774)."""

from __future__ import annotations

import torch

from .base import Importance, ScoreRequest, register_score


@register_score("obs", needs=["gram"])
def obs(request: ScoreRequest) -> Importance:
    """score_ij = abs(w_ij) / U_jj with U^T U the inverse of the damped Gram matrix: the root of w_ij^2 / U_jj^2.

    The root orders weights as its square does, but squares leave float32 where weights do not, and a scale of columns
    needs no matrix. A column that was always zero scores 0, as its weights change nothing. Without a factor the score
    is Wanda's, from the diagonal of the Gram matrix; ``statistics.steps`` tells.
    """
    statistics = request.statistics
    energy, upper = statistics.gram.diagonal().to(torch.float64), statistics.factor(request.recipe.damping).upper
    if upper is None:
        column_scale = (energy / statistics.sequences).sqrt()
    else:
        column_scale = upper.diagonal().to(torch.float64).reciprocal().masked_fill(energy == 0, 0)
    return Importance(column_scale=column_scale.to(torch.float32))
