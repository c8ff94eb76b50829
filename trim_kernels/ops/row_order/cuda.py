"""row_order on CUDA: radix sort of each row by one block, in shared memory where it fits."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.cuda import reluctance as reluctance


def row_order(weight: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    rows, columns = weight.shape
    order = torch.empty(weight.shape, dtype=torch.int32, device=weight.device)
    scratch_bytes = cuda.size("row_order_scratch", rows, columns, weight.device.index or 0)
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=weight.device)
    bad = cuda.value_flag(weight, column_scale, check_values)
    matrix = scored(unit_stride(weight), column_scale, score)
    cuda.call("row_order", weight.device, matrix, order, order.element_size(), scratch, bad=bad)
    cuda.require_good(bad, weight, column_scale, score)
    return order
