"""gram_ in Triton: the tiles of the lower triangle, each owned by one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trim_kernels import triton_common as common


class Tile(NamedTuple):
    """What one program works on, and with what."""

    columns: int
    tokens: int
    warps: int
    stages: int


FLOAT32_TILE = Tile(64, 32, 2, 2)
"""With more warps Triton 3.6 multiplies float32 in TF32 on Blackwell, whatever precision is asked for."""
_INTERPRETED_TILE = Tile(32, 64, 1, 1)


def refusal(call: Mapping[str, Any]) -> str | None:
    return common.refusal(call, "x")


def native_tile(capability: tuple[int, int]) -> Tile:
    """The tile for half precision on tensor cores."""
    return Tile(128, 64, 8, 4) if capability[0] in (9, 10) else Tile(128, 32, 8, 3)


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    from trim_kernels.ops.gram.triton_kernels import add_gram_tile

    tokens, width = x.shape
    native = x.dtype != torch.float32 and not common.interpreted()
    if common.interpreted():
        tile = _INTERPRETED_TILE
    else:
        tile = native_tile(torch.cuda.get_device_capability(x.device)) if native else FLOAT32_TILE
    tiles = common.cdiv(width, tile.columns)
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
            NATIVE=native,
            BLOCK=tile.columns,
            BLOCK_TOKENS=tile.tokens,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
