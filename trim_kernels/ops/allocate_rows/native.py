"""allocate_rows on the CPU: each row keeps its running output, which every candidate moves a little."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.ops.allocate_rows.metrics import metric_refusal
from trim_kernels.ops.allocate_rows.options import search_options


def refusal(call: Mapping[str, object]) -> str | None:
    return metric_refusal(call) or native.refusal(call)


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
    on_host = (ctypes.c_double * len(rates))(*rates)
    search = search_options(
        rows,
        columns,
        sparsity,
        max_sparsity,
        layer_metric,
        row_metric,
        rounding,
        ctypes.addressof(on_host),
        (len(learning_rates), len(negative_learning_rates)),
        iterations,
    )
    tokens = inputs.to(torch.float32).contiguous()
    prune_count = torch.empty(rows, dtype=torch.int32)
    trace = torch.empty((1 + len(rates), 1 + iterations), dtype=torch.float64)
    native.call(
        "allocate_rows",
        unit_stride(weight),
        column_scale,
        score,
        tokens,
        tokens.shape[1],
        search,
        prune_count,
        trace,
    )
    return prune_count, trace
