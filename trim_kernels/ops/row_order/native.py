"""row_order on the CPU: radix sort of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal


def row_order(
    weight: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> Tensor:
    order = torch.empty(weight.shape, dtype=torch.int32)
    native.call("row_order", unit_stride(weight), column_scale, score, order)
    return order
