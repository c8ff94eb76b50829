"""Scores: how important is a weight? The smallest go first. One file each."""

from . import magnitude, obs, ria, wanda
from .base import SCORES, Importance, Score, ScoreRequest, register_score

__all__ = [
    "SCORES",
    "Importance",
    "Score",
    "ScoreRequest",
    "magnitude",
    "obs",
    "register_score",
    "ria",
    "wanda",
]
