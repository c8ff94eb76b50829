"""allocate_rows on CUDA: every learning rate a chain of one batch, all rounds in one CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import unit_stride
from trim_kernels.ops.allocate_rows.batched import replay
from trim_kernels.ops.allocate_rows.metrics import metric_refusal
from trim_kernels.ops.allocate_rows.options import search_options
from trim_kernels.ops.row_order.cuda import SHORT_COLUMNS, order_rows
from trim_kernels.ops.row_quality.cuda import dense_outputs


def refusal(call: Mapping[str, object]) -> str | None:
    return metric_refusal(call) or cuda.refusal(call)


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
    device = weight.device
    matrix = unit_stride(weight)
    bad = cuda.value_flag(weight, column_scale, check_values=True)
    order_dtype = torch.int16 if columns <= SHORT_COLUMNS else torch.int32
    order = order_rows(matrix, column_scale, score, order_dtype, bad)
    outputs = dense_outputs(matrix, inputs, column_scale, score, bad)
    cuda.require_good(bad, weight, column_scale, score, inputs=inputs)

    # A search without rates still has uniform shares to evaluate: a rate of 0 stays there.
    rates = [*learning_rates, *negative_learning_rates] or [0.0]
    on_device = torch.tensor(rates, dtype=torch.float64, device=device)
    search = search_options(
        rows,
        columns,
        sparsity,
        max_sparsity,
        layer_metric,
        row_metric,
        rounding,
        on_device.data_ptr(),
        (len(rates) - len(negative_learning_rates), len(negative_learning_rates)),
        iterations,
    )
    best = torch.empty((len(rates), rows), dtype=torch.int32, device=device)
    uniform = torch.empty(rows, dtype=torch.int32, device=device)
    trace = torch.empty((1 + len(rates), 1 + iterations), dtype=torch.float64, device=device)
    size = cuda.size("allocate_rows_scratch", rows, inputs.shape[1], len(rates))
    scratch = torch.empty(size, dtype=torch.uint8, device=device)
    cuda.call(
        "allocate_rows",
        device,
        outputs.matrix,
        order,
        outputs.inputs,
        outputs.dense,
        outputs.statistics,
        search,
        best,
        uniform,
        trace,
        scratch,
    )
    tried, winner = replay(trace.cpu(), len(learning_rates), len(negative_learning_rates))
    tried = tried[: 1 + len(learning_rates) + len(negative_learning_rates)]
    return (uniform if winner is None else best[winner].clone()), tried
