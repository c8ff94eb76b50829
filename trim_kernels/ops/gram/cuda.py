"""gram_ on CUDA: tiles of the lower triangle, on tensor cores from bfloat16 and float16."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import activations, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.scoring import apart


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    total = unit_stride(acc)
    tokens = activations(apart(x, total), token_mask)
    cuda.call("gram", x.device, tokens, total, total.stride(0))
    if total is not acc:
        acc.copy_(total)
