"""nm_mask in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.bits import pack_bits
from trim_kernels.ops.nm_rank.reference import nm_rank


def refusal(call: Mapping[str, object]) -> None:
    return None


def nm_mask(
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    rank = nm_rank(weight, of, column_scale, score, check_values)
    tail = weight.shape[1] % of
    whole = weight.shape[1] - tail
    mask = torch.cat([rank[:, :whole] < keep, rank[:, whole:] < -(-keep * tail // of)], dim=1)
    return pack_bits(mask) if packed else mask
