"""Row budgets: how many weights of each row of a linear go. One file each."""

from . import optimal, trim, uniform, whole
from .base import ROW_BUDGETS, RowBudget, RowDecision, RowRequest, register_row_budget

__all__ = [
    "ROW_BUDGETS",
    "RowBudget",
    "RowDecision",
    "RowRequest",
    "optimal",
    "register_row_budget",
    "trim",
    "uniform",
    "whole",
]
