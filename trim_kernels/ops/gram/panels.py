"""gram_ of half precision on a GPU: products of panels of columns on tensor cores, by the vendor's library.

A panel's columns are multiplied with themselves and all columns after them, so that of a wide matrix little more than
the lower triangle is computed. Of 5120 columns, kernels of ours took 1.4 (Triton) and 2 times (CUDA) as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trim_kernels.scoring import apart

PANELS, NARROWEST = 8, 1024
"""Panels at most, and columns of one at least. Fewer compute more above the diagonal, more do not fill the device."""
TOKENS = 4096
"""Of one product. Tensor cores cut off what they add up, 16 tokens at a time: of a sum of so many about 1.5e-5."""


def add_lower_products(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    """``acc += x.t() @ x`` on and below the diagonal, for bfloat16 or float16 on a GPU.

    Beside ``acc`` it takes memory for the square of a panel, float32, and with a mask for a copy of ``x``.
    """
    acc, x = acc.detach(), apart(x.detach(), acc)
    columns = x.shape[1]
    if token_mask is not None:
        x = torch.where(token_mask[:, None], x, 0)
    for tokens in torch.split(x, TOKENS):
        for panel in _panels(columns):
            below = slice(panel.start, columns)
            square = acc[panel, panel]
            kept = square.clone()
            add_product(acc[below, panel], tokens[:, below], tokens[:, panel])
            # The product has written above the diagonal too.
            torch.where(_lower(square), square, kept, out=square)


def add_product(acc: Tensor, left: Tensor, right: Tensor) -> None:
    """``acc += left.t() @ right``, summed in float32."""
    torch.addmm(acc, left.t(), right, out_dtype=torch.float32, out=acc)


def _panels(columns: int) -> Iterator[slice]:
    width = max(NARROWEST, -(-columns // PANELS // 128) * 128)
    return (slice(start, min(start + width, columns)) for start in range(0, columns, width))


def _lower(square: Tensor) -> Tensor:
    return torch.ones(square.shape, dtype=torch.bool, device=square.device).tril_()
