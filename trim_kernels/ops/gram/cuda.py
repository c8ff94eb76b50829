"""gram_ on CUDA: float32 by a kernel that keeps every bit, bfloat16 and float16 on tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import activations, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.ops.gram.panels import add_lower_products
from trim_kernels.scoring import apart


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    total = unit_stride(acc)
    if x.dtype == torch.float32:
        cuda.call("gram", x.device, activations(apart(x, total), token_mask), total, total.stride(0))
    else:
        add_lower_products(total, x, token_mask)
    if total is not acc:
        acc.copy_(total)
