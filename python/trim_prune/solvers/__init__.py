"""Solvers: what happens to the survivors? One file each."""

from . import mask
from .base import SOLVERS, Solver, register_solver

__all__ = ["SOLVERS", "Solver", "mask", "register_solver"]
