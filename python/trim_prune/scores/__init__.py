"""Scores: how important is a weight? The smallest go first. One file each."""

from . import magnitude, wanda
from .base import SCORES, Importance, Score, register_score

__all__ = ["SCORES", "Importance", "Score", "magnitude", "register_score", "wanda"]
