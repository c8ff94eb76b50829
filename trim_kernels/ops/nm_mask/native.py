"""nm_mask on the CPU: the rank of each weight in its group, in one read of the weight."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.bits import empty_mask
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal


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
    native.call("nm_mask", unit_stride(weight), column_scale, score, keep, of, int(packed), mask)
    return mask
