"""prune_rows_ on the CPU: all thresholds first, which also finds bad values, so that an error changes nothing."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal
from trim_kernels.ops.row_threshold.native import row_threshold
from trim_kernels.scoring import apart


def prune_rows_(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> None:
    rows = unit_stride(weight)
    # Scores are read again while weights become zero: they must not be views of the weight.
    column_scale, score = apart(column_scale, rows), apart(score, rows)
    key, column = row_threshold(rows, prune_count, column_scale, score, check_values)
    native.call("prune_rows", rows, column_scale, score, key, column)
    if rows is not weight:
        weight.copy_(rows)
