"""row_quality in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.ops.row_mask.reference import row_mask
from trim_kernels.scoring import require_finite_tensor, require_no_overflow


def refusal(call: Mapping[str, object]) -> None:
    return None


def row_quality(
    weight: Tensor,
    prune_count: Tensor,
    inputs: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if check_values:
        require_finite_tensor("inputs", inputs)
    mask = row_mask(weight, prune_count, column_scale, score, packed=False, check_values=check_values)
    dense = weight.to(torch.float32)
    tokens = inputs.to(torch.float32)
    output = (dense @ tokens).to(torch.float64)
    dropped = (dense.masked_fill(mask, 0) @ tokens).to(torch.float64)
    if check_values:
        require_no_overflow(output, dropped)
    return (
        output.square().sum(dim=1),
        dropped.square().sum(dim=1),
        (output * dropped).sum(dim=1),
        output.square().amax(dim=1),
    )
