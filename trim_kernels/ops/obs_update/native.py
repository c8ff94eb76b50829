"""obs_update_ on the CPU: some rows of a block at a time, transposed into the lanes of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.native import refusal as refusal
from trim_kernels.ops.obs_update.blocks import eliminate

WIDE_BLOCK = 2048
"""Columns of a block where every thread has rows enough. So wide, as after a product torch's threads spin on the cores
that the kernel wants next; no wider, as a tile of rows is to fit the second-level cache."""
ROWS = 64
"""That a thread takes at once, with AVX-512."""


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    enough = len(weight) >= ROWS * torch.get_num_threads()
    return eliminate(weight, kept, factor, native.eliminate, block=WIDE_BLOCK if enough else None)
