"""The order in which a wide matrix is eliminated; backends differ in how they eliminate a block of columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trim_kernels.c_types import unit_stride
from trim_kernels.precision import full_float32
from trim_kernels.scoring import apart, require_finite_tensor, surely_finite

BLOCK = 128
"""Columns that a kernel eliminates at once, if it does not say otherwise."""
PANEL = 1024
"""Columns that are updated after each block; those right of the panel are updated, and read, once for all of it."""

EliminateBlock = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called with weight, kept, factor and errors of a block of columns; changes the weight, and writes all errors."""


def eliminate(
    weight: Tensor, kept: Tensor, factor: Tensor, eliminate_block: EliminateBlock, block: int | None = None
) -> Tensor:
    """Check the values, eliminate all columns of the weight in place, and return the errors."""
    weight, factor = weight.detach(), apart(factor.detach(), weight)
    require_good(weight, factor)
    rows, columns = weight.shape
    work = unit_stride(weight)
    errors = torch.empty((rows, columns), dtype=torch.float32, device=weight.device)
    with full_float32(weight.device):
        block = block or BLOCK
        step = max(PANEL, block)
        for panel in range(0, columns, step):
            panel_end = min(panel + step, columns)
            for begin in range(panel, panel_end, block):
                end = min(begin + block, panel_end)
                these = slice(begin, end)
                eliminate_block(work[:, these], kept[:, these], factor[these, these], errors[:, these])
                _spread(work, factor, errors, these, slice(end, panel_end))
            _spread(work, factor, errors, slice(panel, panel_end), slice(panel_end, columns))
    if work is not weight:
        weight.copy_(work)
    return errors


def require_good(weight: Tensor, factor: Tensor) -> None:
    """Raise ValueError for NaN or infinity in the weight or the upper triangle, or a diagonal that is not positive."""
    if not surely_finite(weight):
        require_finite_tensor("weight", weight)
    for begin in range(0, len(factor), PANEL):
        rows = slice(begin, begin + PANEL)
        if not (surely_finite(factor[rows, rows].triu()) and surely_finite(factor[rows, begin + PANEL :])):
            require_finite_tensor("factor", factor.triu())
    diagonal = factor.diagonal()
    if not bool((diagonal > 0).all()):
        first = int((diagonal <= 0).nonzero()[0])
        raise ValueError(
            f"factor: expected a diagonal > 0, got {float(diagonal[first])} at [{first}, {first}] "
            f"({int((diagonal <= 0).sum())} of {len(diagonal)} values)"
        )


def _spread(weight: Tensor, factor: Tensor, errors: Tensor, these: slice, rest: slice) -> None:
    """What the errors of some columns do to columns right of them."""
    if rest.start < rest.stop:
        weight[:, rest].addmm_(errors[:, these], factor[these, rest], alpha=-1)
