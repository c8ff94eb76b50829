"""row_mask on the CPU: selection and mask in one read of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.checks import require_counts_in_range
from trim_kernels.native import refusal as refusal


def row_mask(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    rows, columns = weight.shape
    require_counts_in_range(prune_count, columns)
    if packed:
        mask = torch.empty((rows, (columns + 7) // 8), dtype=torch.uint8)
    else:
        mask = torch.empty((rows, columns), dtype=torch.bool)
    native.call("row_mask", unit_stride(weight), column_scale, score, prune_count.contiguous(), int(packed), mask)
    return mask
