"""pack_values on the CPU: rows over threads, a vector of weights compressed by the bits of its mask at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import packing, unit_stride
from trim_kernels.native import refusal as refusal


def pack_values(weight: Tensor, kept: Tensor) -> Tensor:
    starts = native.packing_starts(kept, weight.shape[1])
    values = torch.empty(int(starts[-1]), dtype=weight.dtype)
    native.move("pack_values", packing(kept, weight.shape[1], starts, unit_stride(weight.detach()), values))
    return values
