"""row_quality on the CPU: dense and dropped products of a few rows at a time, no mask and no pruned weight."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.checks import require_counts_in_range
from trim_kernels.native import refusal as refusal


def row_quality(
    weight: Tensor,
    prune_count: Tensor,
    inputs: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    require_counts_in_range(prune_count, weight.shape[1])
    tokens = inputs.to(torch.float32).contiguous()
    statistics = torch.empty((4, weight.shape[0]), dtype=torch.float64)
    native.call(
        "row_quality",
        unit_stride(weight),
        column_scale,
        score,
        prune_count.contiguous(),
        tokens,
        tokens.shape[1],
        statistics,
    )
    # An operator's outputs must not share memory.
    dense_sq, dropped_sq, cross, peak = (row.clone() for row in statistics)
    return dense_sq, dropped_sq, cross, peak
