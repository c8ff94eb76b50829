"""column_sqnorm_ on CUDA: sums over ranges of tokens, then over the ranges, in an order that no device changes."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import activations
from trim_kernels.cuda import refusal as refusal


def column_sqnorm_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    total = acc.contiguous()
    # x is read whole before acc changes: it may be a view of it.
    splits = cuda.size("column_sqnorm_splits", *x.shape)
    partial = torch.empty((splits, x.shape[1]), dtype=torch.float64, device=x.device)
    tokens = activations(x, token_mask)
    cuda.call("column_sqnorm", x.device, tokens, total, int(acc.dtype == torch.float64), partial)
    if total is not acc:
        acc.copy_(total)
