"""row_quality on CUDA: the dense product, then one masked product with its statistics; no mask, no pruned weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import DTYPES, Scored, scored, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.ops.row_threshold.cuda import row_threshold


@dataclass(frozen=True)
class Outputs:
    """A scored weight's dense outputs, and what further products with the same inputs need."""

    matrix: Scored
    inputs: cuda.Inputs
    staged: Tensor
    dense: Tensor
    """float32 [R, padded tokens]"""
    partial: Tensor
    statistics: Tensor
    """float64 [2, R]: |y|^2 and max y^2."""


def row_quality(
    weight: Tensor,
    prune_count: Tensor,
    inputs: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = unit_stride(weight)
    key, column = row_threshold(rows, prune_count, column_scale, score, check_values)
    bad = cuda.value_flag(weight, None, check_values)
    outputs = dense_outputs(rows, inputs, column_scale, score, bad)
    statistics = torch.empty_like(outputs.statistics)
    cuda.call(
        "row_products",
        weight.device,
        outputs.matrix,
        key,
        column,
        outputs.inputs,
        outputs.dense,
        outputs.partial,
        statistics,
        bad=bad,
    )
    cuda.require_good(bad, weight, column_scale, score, inputs=inputs)
    # An operator's outputs must not share memory.
    dense_sq, peak, cross, dropped_sq = (row.clone() for row in (*outputs.statistics, *statistics))
    return dense_sq, dropped_sq, cross, peak


def dense_outputs(
    weight: Tensor, inputs: Tensor, column_scale: Tensor | None, score: Tensor | None, bad: Tensor | None
) -> Outputs:
    """Lay the inputs out and multiply; ``weight`` has unit column stride."""
    device, tokens = weight.device, inputs.shape[1]
    matrix = scored(weight, column_scale, score)
    values = inputs.contiguous()
    dtype = DTYPES[inputs.dtype]
    staged = torch.empty(cuda.size("staged_bytes", matrix, dtype, tokens), dtype=torch.uint8, device=device)
    layout = cuda.Inputs(values=staged.data_ptr())
    cuda.call("stage_inputs", device, matrix, values, dtype, tokens, layout, bad=bad)
    padded = cuda.size("padded_tokens", tokens)
    dense = torch.empty((weight.shape[0], padded), dtype=torch.float32, device=device)
    partial = torch.empty((cuda.size("quality_partials", tokens), weight.shape[0]), dtype=torch.float64, device=device)
    statistics = torch.empty((2, weight.shape[0]), dtype=torch.float64, device=device)
    cuda.call("row_products", device, matrix, None, None, layout, dense, partial, statistics, bad=bad)
    return Outputs(matrix, layout, staged, dense, partial, statistics)
