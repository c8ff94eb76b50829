"""column_sqnorm_ on the CPU: each column by one thread, token after token."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.native import refusal as refusal


def column_sqnorm_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    total = acc.contiguous()
    native.accumulate("column_sqnorm", total, x, token_mask, int(acc.dtype == torch.float64))
    if total is not acc:
        acc.copy_(total)
