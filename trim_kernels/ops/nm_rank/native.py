"""nm_rank on the CPU: every group in a vector register, compared with itself turned, in one read of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal


def nm_rank(weight: Tensor, of: int, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    rank = torch.empty(weight.shape, dtype=torch.uint8)
    native.call("nm_rank", unit_stride(weight), column_scale, score, of, rank)
    return rank
