"""nm_rank in Triton: the ranks by which nm_mask selects, written as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.ops.nm_mask.triton import select
from trim_kernels.triton_common import refusal as refusal


def nm_rank(weight: Tensor, of: int, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    from trim_kernels.ops.nm_mask import triton_kernels as kernels

    rank = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    select(kernels.RANK.value, weight, 0, of, column_scale, score, rank, check_values)
    return rank
