"""row_mask in Triton: selection and mask in one read of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.bits import empty_mask
from trim_kernels.ops.row_threshold.triton import select_mask
from trim_kernels.triton_common import refusal as refusal


def row_mask(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    mask = empty_mask(weight, packed)
    select_mask(weight, prune_count, column_scale, score, mask.view(torch.uint8), packed, check_values)
    return mask
