"""pack_values in Triton: a program walks along a row, and knows by a running sum where its values go."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.triton_common import as_integers
from trim_kernels.triton_common import refusal as refusal

BLOCK = 1024
WARPS = 4


def pack_values(weight: Tensor, kept: Tensor) -> Tensor:
    with common.on_device(weight):
        starts = starts_of(kept, weight.shape[1])
        values = torch.empty(int(starts[-1]), dtype=weight.dtype, device=weight.device)
        move(weight.detach(), kept, values, starts, pack=True)
    return values


def starts_of(kept: Tensor, columns: int) -> Tensor:
    """How many weights are kept before each row, and in all: int64 [R + 1]."""
    from trim_kernels.ops.pack_values.triton_kernels import count_row

    rows = kept.shape[0]
    counts = torch.zeros(rows + 1, dtype=torch.int64, device=kept.device)
    if rows:
        count_row[(rows,)](kept.contiguous(), counts, columns, kept.shape[1], BLOCK=BLOCK, num_warps=WARPS)
    return counts.cumsum(0)


def move(weight: Tensor, kept: Tensor, values: Tensor, starts: Tensor, *, pack: bool) -> None:
    """From the weight to the values, or back."""
    from trim_kernels.ops.pack_values.triton_kernels import move_row

    rows, columns = weight.shape
    if rows == 0:
        return
    move_row[(rows,)](
        weight=as_integers(weight),
        kept=kept.contiguous(),
        values=as_integers(values),
        starts=starts,
        width=columns,
        bytes_of_row=kept.shape[1],
        weight_row=weight.stride(0),
        weight_column=weight.stride(1),
        PACK=pack,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
