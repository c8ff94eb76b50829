"""nm_rank in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.scoring import require_finite, scores


def refusal(call: Mapping[str, object]) -> None:
    return None


def nm_rank(weight: Tensor, of: int, column_scale: Tensor | None, score: Tensor | None, check_values: bool) -> Tensor:
    if check_values:
        require_finite(weight, column_scale, score)
    score = scores(weight, column_scale, score)
    columns = weight.shape[1]
    tail = columns % of
    return torch.cat([_ranks(score[:, : columns - tail], of), _ranks(score[:, columns - tail :], max(tail, 1))], dim=1)


def _ranks(score: Tensor, of: int) -> Tensor:
    """Of every ``of`` columns, which divides their number."""
    groups = score.reshape(score.shape[0], score.shape[1] // of, of)
    order = torch.sort(groups, dim=2, stable=True).indices
    rank = torch.arange(of - 1, -1, -1, dtype=torch.uint8, device=score.device)
    return torch.empty_like(groups, dtype=torch.uint8).scatter_(2, order, rank.expand(order.shape)).flatten(1)
