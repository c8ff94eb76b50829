"""prune_nm_ in Triton: in one pass, or with ``check_values`` after one that only looks at the values."""

from __future__ import annotations

from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.nm_mask.triton import select
from trim_kernels.scoring import apart
from trim_kernels.triton_common import refusal as refusal


def prune_nm_(
    weight: Tensor, keep: int, of: int, column_scale: Tensor | None, score: Tensor | None, check_values: bool
) -> None:
    from trim_kernels.ops.nm_mask import triton_kernels as kernels

    weight = weight.detach()
    column_scale, score = apart(column_scale, weight), apart(score, weight)
    out = common.as_integers(weight)
    if check_values:
        select(kernels.NOTHING.value, weight, keep, of, column_scale, score, out, check_values=True)
    select(kernels.IN_PLACE.value, weight, keep, of, column_scale, score, out, check_values=False)
