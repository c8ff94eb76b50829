"""Structured pruning: whole KV groups and channels go, and the model becomes smaller (SlimLLM, arXiv 2505.22689)."""

from .recipe import StructuredRecipe
from .results import StructuredResult

__all__ = ["StructuredRecipe", "StructuredResult"]
