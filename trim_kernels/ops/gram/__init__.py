"""The products of all pairs of columns of the activations, added up batch after batch."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_accumulator, check_activations


def gram_(acc: Tensor, x: Tensor, *, token_mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """``acc[i, j] += sum over tokens t of x[t, i] * x[t, j]`` for ``i >= j``; return ``acc``.

    Only the lower triangle, diagonal included, is changed; the upper one stays as it is. Products and sums are float32
    or better, but for halves on a GPU, whose tensor cores cut off what they add up: of 4096 tokens about 1.5e-5. The
    result of a backend is the same in every run. NaN and infinity in tokens that count reach ``acc``; others do not
    matter. Not differentiable.

    Args:
        acc: float32 [C, C], changed in place.
        x, token_mask, backend: as in :func:`trim_kernels.column_sqnorm_`.

    Raises:
        ValueError: an argument has a wrong shape, dtype or device, or the backend cannot run here.
    """
    check_activations(x, token_mask)
    check_accumulator("gram_", acc, x)
    torch.ops.trim_kernels.gram_(acc, x, token_mask, backend)
    return acc
