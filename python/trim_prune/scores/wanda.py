"""Wanda (Sun et al. 2023, arXiv 2306.11695): weight magnitude times the norm of its input."""

from __future__ import annotations

import torch
from torch import Tensor

from ..calibration.statistics import LinearStatistics
from .base import Importance, ScoreRequest, register_score


@register_score("wanda", needs=["column_energy"])
def wanda(request: ScoreRequest) -> Importance:
    """score_ij = abs(w_ij) * sqrt(mean over sequences of the sum over tokens of x_j^2)."""
    return Importance(column_scale=column_norm(request.statistics).to(torch.float32))


def column_norm(statistics: LinearStatistics) -> Tensor:
    """norm_j = sqrt(mean over sequences of the sum over tokens of x_j^2), float64 [C]."""
    # The root is taken in float64 and rounded once: torch's float32 root is not correctly rounded on every CPU.
    return (statistics.column_energy / statistics.sequences).sqrt()
