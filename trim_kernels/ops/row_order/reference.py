"""row_order in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.scoring import require_finite, scores


def refusal(call: Mapping[str, object]) -> None:
    return None


def row_order(
    weight: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> Tensor:
    if check_values:
        require_finite(weight, column_scale, score)
    order = torch.sort(scores(weight, column_scale, score), dim=1, stable=True).indices
    return order.to(torch.int32, memory_format=torch.contiguous_format)
