"""row_mask in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.bits import pack_bits
from trim_kernels.checks import require_counts_in_range
from trim_kernels.scoring import require_finite, scores


def refusal(call: Mapping[str, object]) -> None:
    return None


def row_mask(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    packed: bool,
    check_values: bool,
) -> Tensor:
    if check_values:
        require_counts_in_range(prune_count, weight.shape[1])
        require_finite(weight, column_scale, score)
    order = torch.sort(scores(weight, column_scale, score), dim=1, stable=True).indices
    position = torch.arange(weight.shape[1], device=weight.device)
    stays = position >= prune_count.unsqueeze(1)
    mask = torch.empty_like(stays).scatter_(1, order, stays)
    return pack_bits(mask) if packed else mask
