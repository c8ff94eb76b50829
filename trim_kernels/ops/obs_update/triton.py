"""obs_update_ in Triton: some rows of a block of columns stay in the registers of one program."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.obs_update.blocks import eliminate
from trim_kernels.triton_common import refusal as refusal

ROWS = 4
WARPS = 1
"""A single one: no column waits for a barrier."""


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    with common.on_device(weight):
        return eliminate(weight, kept, factor, _eliminate_block)


def _eliminate_block(weight: Tensor, kept: Tensor, factor: Tensor, errors: Tensor) -> None:
    from trim_kernels.ops.obs_update.triton_kernels import eliminate_block

    rows, width = weight.shape
    if rows == 0:
        return
    eliminate_block[(common.cdiv(rows, ROWS),)](
        weight=weight,
        kept=kept.view(torch.uint8),
        factor=factor,
        errors=errors,
        rows=rows,
        width=width,
        weight_row=weight.stride(0),
        weight_column=weight.stride(1),
        kept_row=kept.stride(0),
        kept_column=kept.stride(1),
        factor_row=factor.stride(0),
        factor_column=factor.stride(1),
        errors_row=errors.stride(0),
        errors_column=errors.stride(1),
        ROWS=ROWS,
        BLOCK=common.power_of_two(width),
        num_warps=WARPS,
    )
