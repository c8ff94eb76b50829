"""allocate_rows in plain torch: every candidate is a masked product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.ops.allocate_rows import metrics
from trim_kernels.ops.allocate_rows.rounding import ROUNDINGS
from trim_kernels.ops.allocate_rows.search import search_rows
from trim_kernels.scoring import require_finite, require_finite_tensor, require_no_overflow, scores


def refusal(call: Mapping[str, object]) -> None:
    return None


def allocate_rows(
    weight: Tensor,
    inputs: Tensor,
    sparsity: float,
    column_scale: Tensor | None,
    score: Tensor | None,
    learning_rates: list[float],
    negative_learning_rates: list[float],
    iterations: int,
    max_sparsity: float,
    layer_metric: str,
    row_metric: str,
    rounding: str,
) -> tuple[Tensor, Tensor]:
    require_finite(weight, column_scale, score)
    require_finite_tensor("inputs", inputs)
    rows, columns = weight.shape
    order = torch.sort(scores(weight, column_scale, score), dim=1, stable=True).indices
    position = torch.arange(columns, device=weight.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, position)
    dense_weight, tokens = weight.to(torch.float32), inputs.to(torch.float32)
    dense = (dense_weight @ tokens).to(torch.float64)
    require_no_overflow(dense)

    def evaluate(counts: Tensor) -> tuple[float, Tensor]:
        pruned = (dense_weight.masked_fill(rank < counts.unsqueeze(1), 0) @ tokens).to(torch.float64)
        require_no_overflow(pruned)
        quality = metrics.quality_of_outputs(dense, pruned)
        layer = metrics.layer_quality_of_outputs(layer_metric, dense, pruned, quality)
        return layer, metrics.ROW_METRICS[row_metric](quality)

    limits = ROUNDINGS[rounding](rows, columns, sparsity, max_sparsity, weight.device)
    return search_rows(evaluate, limits, learning_rates, negative_learning_rates, iterations)
