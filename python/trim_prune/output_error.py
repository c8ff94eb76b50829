"""How much of a linear's output a prune changed, from what was measured at its input anyway."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .calibration.statistics import LinearStatistics, Need

ROWS_AT_ONCE = 1024


def error_inputs(needs: frozenset[Need]) -> Need | None:
    """What tells the error of an output, best first; None: nothing that is collected does."""
    known: tuple[Need, ...] = ("gram", "search_inputs")
    return next((need for need in known if need in needs), None)


def output_error(dense: Tensor, pruned: Tensor, statistics: LinearStatistics, inputs: Need | None) -> float | None:
    """||(W' - W) X||^2 / ||W X||^2 of weights W (``dense``) and W' (``pruned``) [R, C], in float32.

    X: all calibration tokens (``inputs``: gram), or those that a row search looks at (search_inputs). None without
    either, or where the dense output is zero.
    """
    if inputs is None:
        return None
    energy = _by_gram(statistics.gram) if inputs == "gram" else _by_inputs(statistics.search_inputs.float())
    lost = whole = 0.0
    for before, after in zip(torch.split(dense, ROWS_AT_ONCE), torch.split(pruned, ROWS_AT_ONCE), strict=True):
        before = before.float()
        lost += energy(after.float() - before)
        whole += energy(before)
    return lost / whole if whole > 0 else None


def _by_gram(gram: Tensor) -> Callable[[Tensor], float]:
    # A difference of zero may come out a rounding below it.
    return lambda weight: max(0.0, float(torch.sum((weight @ gram) * weight, dtype=torch.float64)))


def _by_inputs(inputs: Tensor) -> Callable[[Tensor], float]:
    return lambda weight: float(torch.sum((weight @ inputs).square_(), dtype=torch.float64))
