"""obs_update_ on the CPU: some rows of a block at a time, transposed into the lanes of vectors."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.native import refusal as refusal
from trim_kernels.ops.obs_update.blocks import eliminate

WIDE_BLOCK = 2048
"""Columns of a block of many rows. So wide, as after a product torch's threads spin on the cores that the kernel wants
next; no wider, as a tile of rows is to fit the second-level cache."""
MANY_ROWS = 128
"""Enough for four threads, with AVX-512. The number of threads is not asked for, so that one matrix has one result."""


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    block = WIDE_BLOCK if len(weight) >= MANY_ROWS else None
    return eliminate(weight, kept, factor, native.eliminate, block)
