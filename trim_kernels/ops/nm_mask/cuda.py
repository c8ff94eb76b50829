"""nm_mask on CUDA: groups sorted in registers, one read of the weight."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import cuda
from trim_kernels.bits import empty_mask
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal


def nm_mask(
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    mask = empty_mask(weight, packed)
    bad = cuda.value_flag(weight, column_scale, check_values)
    matrix = scored(unit_stride(weight), column_scale, score)
    cuda.call("nm_select", weight.device, matrix, keep, of, mask, int(packed), bad=bad)
    cuda.require_good(bad, weight, column_scale, score)
    return mask
