"""allocate_rows on the CPU: the exact quality of every row at every count once, then each candidate is a lookup."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS, STATISTIC_METRICS
from trim_kernels.ops.allocate_rows.rounding import ROUNDINGS
from trim_kernels.ops.allocate_rows.search import search_rows
from trim_kernels.ops.row_quality import RowQuality


def refusal(call: Mapping[str, object]) -> str | None:
    metric = call.get("layer_metric", "cosine")
    if metric not in STATISTIC_METRICS:
        return f"layer_metric {metric!r} needs the outputs; without them only {', '.join(STATISTIC_METRICS)}"
    return native.refusal(call)


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
    rows, columns = weight.shape
    curves = QualityCurves(weight, inputs, column_scale, score)

    def evaluate(counts: Tensor) -> tuple[float, Tensor]:
        quality = curves.at(counts)
        return STATISTIC_METRICS[layer_metric](quality), ROW_METRICS[row_metric](quality)

    limits = ROUNDINGS[rounding](rows, columns, sparsity, max_sparsity, weight.device)
    return search_rows(evaluate, limits, learning_rates, negative_learning_rates, iterations)


class QualityCurves:
    """The row statistics of a matrix for every prune count: two float32 tables [R, C + 1]."""

    def __init__(self, weight: Tensor, inputs: Tensor, column_scale: Tensor | None, score: Tensor | None) -> None:
        rows, columns = weight.shape
        tokens = inputs.to(torch.float32).contiguous()
        self._tokens = tokens.shape[1]
        self._kept_dense = torch.empty((rows, columns + 1), dtype=torch.float32)
        self._kept_sq = torch.empty_like(self._kept_dense)
        self._dense_sq = torch.empty(rows, dtype=torch.float64)
        self._peak = torch.empty_like(self._dense_sq)
        native.call(
            "quality_curves",
            native.unit_stride(weight),
            column_scale,
            score,
            tokens,
            self._tokens,
            self._kept_dense,
            self._kept_sq,
            self._dense_sq,
            self._peak,
        )

    def at(self, counts: Tensor) -> RowQuality:
        """With y the dense output, k what is kept of it and e = y - k: ``<y, e>`` and ``|e|^2`` from the tables."""
        position = counts.long().unsqueeze(1)
        kept_dense = self._kept_dense.gather(1, position).squeeze(1).to(torch.float64)
        kept_sq = self._kept_sq.gather(1, position).squeeze(1).to(torch.float64)
        cross = self._dense_sq - kept_dense
        dropped_sq = (cross - kept_dense + kept_sq).clamp(min=0)
        # An untouched row has no error at all, also where the float32 tables round.
        untouched = counts == 0
        return RowQuality(
            dense_sq=self._dense_sq,
            dropped_sq=dropped_sq.masked_fill(untouched, 0),
            cross=cross.masked_fill(untouched, 0),
            peak=self._peak,
            tokens=self._tokens,
        )
