"""RIA (Zhang et al., ICLR 2024): the share of a weight in its row and in its column, times the norm of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tiles import row_tiles
from .base import Importance, ScoreRequest, register_score
from .wanda import column_norm


@register_score("ria", needs=["column_energy"])
def ria(request: ScoreRequest) -> Importance:
    """score_ij = (abs(w_ij) / sum_i abs(w_ij) + abs(w_ij) / sum_j abs(w_ij)) * norm_j ^ a.

    norm_j is Wanda's: sqrt(mean over sequences of the sum over tokens of x_j^2). Computed in float64 and rounded once.
    A row or column of zeros scores 0.
    """
    weight = request.weight
    column_sum = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for rows in row_tiles(weight):
        column_sum += weight[rows].abs().sum(0, dtype=torch.float64)
    column_sum = _divisor(column_sum)
    input_scale = column_norm(request.statistics) ** request.recipe.ria.a
    score = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    for rows in row_tiles(weight):
        magnitude = weight[rows].to(torch.float64).abs()
        row_sum = _divisor(magnitude.sum(1, keepdim=True))
        score[rows] = (magnitude / column_sum + magnitude / row_sum) * input_scale
    return Importance(score=score)


def _divisor(total: Tensor) -> Tensor:
    return total.masked_fill(total == 0, 1)
