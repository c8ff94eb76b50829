"""Layer budgets: the sparsity of each linear of a model. One file each."""

from . import uniform
from .base import LAYER_BUDGETS, LayerBudget, apportion, register_layer_budget

__all__ = ["LAYER_BUDGETS", "LayerBudget", "apportion", "register_layer_budget", "uniform"]
