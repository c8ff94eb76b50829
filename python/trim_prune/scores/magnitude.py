"""Magnitude: the score is abs(weight)."""

from __future__ import annotations

from torch import Tensor

from ..calibration.statistics import LinearStatistics
from .base import Importance, register_score


@register_score("magnitude")
def magnitude(weight: Tensor, statistics: LinearStatistics) -> Importance:
    """score_ij = abs(w_ij)."""
    return Importance()
