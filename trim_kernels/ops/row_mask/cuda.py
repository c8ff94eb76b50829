"""row_mask on CUDA: selection and mask in one read of the weight."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import cuda
from trim_kernels.bits import empty_mask
from trim_kernels.cuda import refusal as refusal
from trim_kernels.ops.row_threshold.cuda import select_rows


def row_mask(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    mask = empty_mask(weight, packed)
    selected = cuda.Selected(mask=mask.data_ptr(), packed=packed)
    select_rows(weight, prune_count, column_scale, score, check_values, selected)
    return mask
