"""unpack_values on the CPU: rows over threads, values expanded to a vector of weights at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import packing
from trim_kernels.checks import require_as_many
from trim_kernels.native import refusal as refusal


def unpack_values(values: Tensor, kept: Tensor, columns: int) -> Tensor:
    starts = native.packing_starts(kept, columns)
    require_as_many(values, int(starts[-1]))
    weight = torch.empty((kept.shape[0], columns), dtype=values.dtype)
    native.move("unpack_values", packing(kept, columns, starts, weight, values.detach().contiguous()))
    return weight
