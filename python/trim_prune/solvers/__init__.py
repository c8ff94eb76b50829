"""Solvers: what happens to the survivors? One file each."""

from . import mask
from .base import SOLVERS, Solver, SolveRequest, register_solver

__all__ = ["SOLVERS", "SolveRequest", "Solver", "mask", "register_solver"]
