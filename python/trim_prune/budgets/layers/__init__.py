"""Layer budgets: how many weights of each linear go. One file each."""

from . import alphapruning, dlp, msp, optimal, owl, table, uniform
from .base import LAYER_BUDGETS, LayerBudget, LayerRequest, register_layer_budget
from .exact import exact_counts
from .keep_counts import keep_counts, pattern_keeps

__all__ = [
    "LAYER_BUDGETS",
    "LayerBudget",
    "LayerRequest",
    "alphapruning",
    "dlp",
    "exact_counts",
    "keep_counts",
    "msp",
    "optimal",
    "owl",
    "pattern_keeps",
    "register_layer_budget",
    "table",
    "uniform",
]
