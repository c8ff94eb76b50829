"""Solvers: what happens to the survivors? One file each."""

from . import alps, mask, sparsegpt, swaps
from .base import SOLVERS, Solver, SolveRequest, register_solver

__all__ = ["SOLVERS", "SolveRequest", "Solver", "alps", "mask", "register_solver", "sparsegpt", "swaps"]
