"""The squared norm of every column of the activations, added up batch after batch."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_accumulator, check_activations


def column_sqnorm_(acc: Tensor, x: Tensor, *, token_mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """``acc[j] += sum over tokens t of x[t, j]^2``; return ``acc``.

    Squares and sums are taken in float64 and rounded once, into ``acc``. The result of a backend is the same in every
    run. NaN and infinity in tokens that count reach ``acc``; others do not matter. Not differentiable.

    Args:
        acc: float32 or float64 [C], changed in place.
        x: float32, bfloat16 or float16 [T, C], any strides; T may be 0.
        token_mask: bool [T], True = the token counts; None = all count.
        backend: "auto", "cuda", "triton", "cpu" (native) or "reference".

    Raises:
        ValueError: an argument has a wrong shape, dtype or device, or the backend cannot run here.
    """
    check_activations(x, token_mask)
    check_accumulator("column_sqnorm_", acc, x)
    torch.ops.trim_kernels.column_sqnorm_(acc, x, token_mask, backend)
    return acc
