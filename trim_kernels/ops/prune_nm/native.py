"""prune_nm_ on the CPU: one read of the weight that finds bad values, then one that selects and writes."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal
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
    # Scores are read again while weights become zero: they must not be views of the weight.
    column_scale, score = apart(column_scale, rows), apart(score, rows)
    native.call("prune_nm", rows, column_scale, score, keep, of)
    if rows is not weight:
        weight.copy_(rows)
