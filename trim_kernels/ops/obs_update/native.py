"""obs_update_ on the CPU: some rows of a block at a time, transposed into the lanes of vectors."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.native import refusal as refusal
from trim_kernels.ops.obs_update.blocks import eliminate


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    return eliminate(weight, kept, factor, native.eliminate)
