"""The order in which the weights of each row go."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_scoring, check_weight


def row_order(
    weight: Tensor,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Columns of each row in pruning order: ascending score, equal scores by lower column.

    Scores, arguments and errors are those of :func:`trim_kernels.row_threshold`.

    Returns:
        int32 [R, C]; ``order[i, :k]`` are the columns that row i loses when its prune count is k.
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    order: Tensor = torch.ops.trim_kernels.row_order(weight, column_scale, score, check_values, backend)
    return order
