"""row_threshold in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.checks import require_counts_in_range
from trim_kernels.scoring import KEY_MAX, require_finite, scores


def refusal(call: Mapping[str, object]) -> None:
    return None


def row_threshold(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    columns = weight.shape[1]
    if check_values:
        require_counts_in_range(prune_count, columns)
        require_finite(weight, column_scale, score)
    ordered, order = torch.sort(scores(weight, column_scale, score), dim=1, stable=True)
    nothing_stays = prune_count == columns
    position = prune_count.long().clamp(max=columns - 1).unsqueeze(1)
    key = ordered.gather(1, position).squeeze(1).view(torch.int32)
    column = order.gather(1, position).squeeze(1).to(torch.int32)
    return key.masked_fill(nothing_stays, KEY_MAX), column.masked_fill(nothing_stays, columns)
