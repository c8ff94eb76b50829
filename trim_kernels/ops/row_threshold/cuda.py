"""row_threshold on CUDA: radix selection, one block a row, keys in registers; many blocks for few long rows."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal


def row_threshold(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> tuple[Tensor, Tensor]:
    key = torch.empty(weight.shape[0], dtype=torch.int32, device=weight.device)
    column = torch.empty_like(key)
    selected = cuda.Selected(key=key.data_ptr(), column=column.data_ptr())
    select_rows(weight, prune_count, column_scale, score, check_values, selected)
    return key, column


def select_rows(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
    selected: cuda.Selected,
) -> None:
    """Select in every row and write what ``selected`` asks for."""
    matrix = scored(unit_stride(weight), column_scale, score)
    bad = cuda.value_flag(weight, column_scale, check_values)
    counters = cuda.size("row_select_scratch", *weight.shape, weight.device.index or 0)
    scratch = torch.zeros(counters, dtype=torch.int32, device=weight.device) if counters else None
    cuda.call("row_select", weight.device, matrix, prune_count.contiguous(), selected, scratch, bad=bad)
    cuda.require_good(bad, weight, column_scale, score, prune_count=prune_count)
