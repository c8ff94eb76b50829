"""nm_mask in Triton: every group in registers, one read of the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.bits import empty_mask, pack_bits
from trim_kernels.triton_common import refusal as refusal

_COMPARISONS = 8192
"""Of one program; half of them in registers at a time."""


def nm_mask(
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    from trim_kernels.ops.nm_mask import triton_kernels as kernels

    if packed and of == common.power_of_two(of):
        mask = empty_mask(weight, packed)
        select(kernels.PACKED_MASK.value, weight, keep, of, column_scale, score, mask, check_values)
        return mask
    mask = empty_mask(weight, packed=False)
    select(kernels.MASK.value, weight, keep, of, column_scale, score, mask.view(torch.uint8), check_values)
    # A group of any other size leaves lanes unused, and bits of a byte would be scattered over them.
    return pack_bits(mask) if packed else mask


def select(
    output: int,
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    out: Tensor,
    check_values: bool,
) -> None:
    """Run ``select_in_groups`` with one of its kinds of output."""
    from trim_kernels.ops.nm_mask.triton_kernels import select_in_groups

    rows, width = weight.shape
    bad = common.BadValues(weight.device) if check_values else None
    lanes = common.power_of_two(of)
    groups = groups_per_program(lanes, width)
    if rows:
        with common.on_device(weight):
            select_in_groups[(rows, common.cdiv(width, of * groups))](
                out=out,
                flag=out if bad is None else bad.flag,
                width=width,
                out_row=out.stride(0),
                out_column=out.stride(1),
                KEEP=keep,
                OF=of,
                OUTPUT=output,
                CHECK=check_values,
                GROUPS=groups,
                LANES=lanes,
                num_warps=4,
                **common.scoring_arguments(weight, column_scale, score),
            )
    if bad is not None:
        bad.require_none(weight, column_scale, score)


def groups_per_program(lanes: int, width: int) -> int:
    """As many as registers hold the comparisons of, and no more than a row has; at least 16 lanes in all."""
    most = min(2048, _COMPARISONS // lanes**2)
    return max(16 // lanes, min(most, common.power_of_two(common.cdiv(width, lanes))), 1)
