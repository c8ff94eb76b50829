"""column_sqnorm_ in Triton: parts of the tokens side by side, then their sums in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trim_kernels import triton_common as common

BLOCK_TOKENS = 32
BLOCK_COLUMNS = 128
_TOKENS_PER_PART = 256
_MOST_PARTS = 128


def refusal(call: Mapping[str, Any]) -> str | None:
    return common.refusal(call, "x")


def column_sqnorm_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    from trim_kernels.ops.column_sqnorm.triton_kernels import sum_squares

    tokens, width = x.shape
    parts = min(_MOST_PARTS, common.cdiv(tokens, _TOKENS_PER_PART))
    partial = torch.empty((parts, width), dtype=torch.float64, device=x.device)
    if parts:
        with common.on_device(x):
            sum_squares[(common.cdiv(width, BLOCK_COLUMNS), parts)](
                x=common.as_bits(x),
                token_mask=partial if token_mask is None else token_mask.contiguous().view(torch.uint8),
                partial=partial,
                tokens=tokens,
                width=width,
                tokens_per_part=common.cdiv(tokens, parts),
                x_row=x.stride(0),
                x_column=x.stride(1),
                MASKED=token_mask is not None,
                BLOCK_TOKENS=BLOCK_TOKENS,
                BLOCK_COLUMNS=BLOCK_COLUMNS,
                num_warps=4,
            )
    acc.copy_(acc.to(torch.float64) + partial.sum(dim=0))
