"""gram_ in Triton: float32 in tiles of the lower triangle, each owned by one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.gram.panels import add_lower_products

COLUMNS, TOKENS, WARPS, STAGES = 64, 32, 2, 2
"""Of a tile. With more warps Triton 3.6 multiplies float32 in TF32 on Blackwell, whatever precision is asked for."""
INTERPRETED_COLUMNS, INTERPRETED_TOKENS = 32, 64


def refusal(call: Mapping[str, Any]) -> str | None:
    return common.refusal(call, "x")


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    if x.is_cuda and x.dtype != torch.float32:
        add_lower_products(acc, x, token_mask)
    else:
        _add_tiles(acc, x, token_mask)


def _add_tiles(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    from trim_kernels.ops.gram.triton_kernels import add_gram_tile

    tokens, width = x.shape
    block, depth = (INTERPRETED_COLUMNS, INTERPRETED_TOKENS) if common.interpreted() else (COLUMNS, TOKENS)
    tiles = common.cdiv(width, block)
    with common.on_device(x):
        add_gram_tile[(tiles, tiles)](
            acc=acc.detach(),
            x=common.as_bits(x),
            token_mask=x if token_mask is None else token_mask.contiguous().view(torch.uint8),
            tokens=tokens,
            width=width,
            acc_row=acc.stride(0),
            acc_column=acc.stride(1),
            x_row=x.stride(0),
            x_column=x.stride(1),
            MASKED=token_mask is not None,
            BLOCK=block,
            BLOCK_TOKENS=depth,
            num_warps=WARPS,
            num_stages=STAGES,
        )
