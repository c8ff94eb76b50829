"""Magnitude: the score is abs(weight)."""

from __future__ import annotations

from .base import Importance, ScoreRequest, register_score


@register_score("magnitude")
def magnitude(request: ScoreRequest) -> Importance:
    """score_ij = abs(w_ij)."""
    return Importance()
