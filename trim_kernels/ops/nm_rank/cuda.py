"""nm_rank on CUDA: all keys of a group compared in registers, one read of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal


def nm_rank(weight: Tensor, of: int, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    rank = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    bad = cuda.value_flag(weight, column_scale, check_values)
    cuda.call("nm_rank", weight.device, scored(unit_stride(weight), column_scale, score), of, rank, bad=bad)
    cuda.require_good(bad, weight, column_scale, score)
    return rank
