"""gram_ on the CPU: tiles of the lower triangle, each by one thread."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    total = unit_stride(acc)
    native.accumulate("gram", total, x, token_mask, total.stride(0))
    if total is not acc:
        acc.copy_(total)
