"""prune_rows_ in Triton: in one pass, or with ``check_values`` thresholds first, so that an error changes nothing."""

from __future__ import annotations

from torch import Tensor

from trim_kernels.ops.row_threshold.triton import prune
from trim_kernels.triton_common import refusal as refusal


def prune_rows_(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> None:
    prune(weight.detach(), prune_count, column_scale, score, check_values)
