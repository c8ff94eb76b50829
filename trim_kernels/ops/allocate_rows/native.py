"""allocate_rows on the CPU: each row keeps its running output, which every candidate moves a little."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS, STATISTIC_METRICS
from trim_kernels.ops.allocate_rows.rounding import row_cap, total_count


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
    rates = [*learning_rates, *negative_learning_rates]
    search = native.Search(
        # The enumerations of trim_kernels.h have the order of these tables.
        layer_metric=list(STATISTIC_METRICS).index(layer_metric),
        row_metric=list(ROW_METRICS).index(row_metric),
        exact=rounding == "exact",
        sparsity=sparsity,
        max_sparsity=max_sparsity,
        total=total_count(rows, columns, sparsity),
        cap=row_cap(columns, max_sparsity),
        rates=(ctypes.c_double * len(rates))(*rates),
        positive_rates=len(learning_rates),
        negative_rates=len(negative_learning_rates),
        iterations=iterations,
    )
    tokens = inputs.to(torch.float32).contiguous()
    prune_count = torch.empty(rows, dtype=torch.int32)
    trace = torch.empty((1 + len(rates), 1 + iterations), dtype=torch.float64)
    native.call(
        "allocate_rows",
        native.unit_stride(weight),
        column_scale,
        score,
        tokens,
        tokens.shape[1],
        search,
        prune_count,
        trace,
    )
    return prune_count, trace
