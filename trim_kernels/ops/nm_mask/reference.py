"""nm_mask in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.bits import pack_bits
from trim_kernels.scoring import require_finite, scores


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
    if check_values:
        require_finite(weight, column_scale, score)
    score = scores(weight, column_scale, score)
    columns = weight.shape[1]
    tail = columns % of
    mask = torch.cat(
        [
            _keep_highest(score[:, : columns - tail], keep, of),
            _keep_highest(score[:, columns - tail :], -(-keep * tail // of), max(tail, 1)),
        ],
        dim=1,
    )
    return pack_bits(mask) if packed else mask


def _keep_highest(score: Tensor, keep: int, of: int) -> Tensor:
    """Mask of the ``keep`` highest of every ``of`` columns, which divides their number."""
    groups = score.reshape(score.shape[0], score.shape[1] // of, of)
    order = torch.sort(groups, dim=2, stable=True).indices
    stays = torch.arange(of, device=score.device) >= of - keep
    return torch.empty_like(groups, dtype=torch.bool).scatter_(2, order, stays.expand(order.shape)).flatten(1)
