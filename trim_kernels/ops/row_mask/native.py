"""row_mask on the CPU: selection and mask in one read of the weight."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.bits import empty_mask
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
    require_counts_in_range(prune_count, weight.shape[1])
    mask = empty_mask(weight, packed)
    native.call("row_mask", unit_stride(weight), column_scale, score, prune_count.contiguous(), int(packed), mask)
    return mask
