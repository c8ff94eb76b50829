"""row_threshold on the CPU: radix selection on the keys of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.checks import require_counts_in_range
from trim_kernels.native import refusal as refusal


def row_threshold(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    require_counts_in_range(prune_count, weight.shape[1])
    key = torch.empty(weight.shape[0], dtype=torch.int32)
    column = torch.empty_like(key)
    native.call("row_threshold", unit_stride(weight), column_scale, score, prune_count.contiguous(), key, column)
    return key, column
