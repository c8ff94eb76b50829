"""prune_nm_ on CUDA: one read and one write of the weight; two reads where values are checked before the write."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import cuda
from trim_kernels.c_types import scored, unit_stride
from trim_kernels.cuda import refusal as refusal
from trim_kernels.scoring import apart


def prune_nm_(
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> None:
    rows = unit_stride(weight)
    # Scores are read while weights become zero: they must not be views of the weight.
    column_scale, score = apart(column_scale, rows), apart(score, rows)
    bad = cuda.value_flag(weight, column_scale, check_values)
    cuda.call("nm_select", weight.device, scored(rows, column_scale, score), keep, of, None, 0, bad=bad)
    cuda.require_good(bad, weight, column_scale, score)
    if rows is not weight:
        weight.copy_(rows)
