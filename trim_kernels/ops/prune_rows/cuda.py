"""prune_rows_ on CUDA: one read and one write of the weight; two reads where values are checked before the write."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.ops.row_threshold.cuda import row_threshold, select_rows
from trim_kernels.scoring import apart


def prune_rows_(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> None:
    rows = unit_stride(weight)
    # Scores are read again while weights become zero: they must not be views of the weight.
    column_scale, score = apart(column_scale, rows), apart(score, rows)
    if check_values:
        key, column = row_threshold(rows, prune_count, column_scale, score, check_values)
        cuda.call("prune_rows", weight.device, scored(rows, column_scale, score), key, column)
    else:
        select_rows(rows, prune_count, column_scale, score, check_values, cuda.Selected(prune=True))
    if rows is not weight:
        weight.copy_(rows)
