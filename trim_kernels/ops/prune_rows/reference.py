"""prune_rows_ in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trim_kernels.ops.row_mask.reference import row_mask


def refusal(call: Mapping[str, object]) -> None:
    return None


def prune_rows_(
    weight: Tensor,
    prune_count: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> None:
    mask = row_mask(weight, prune_count, column_scale, score, packed=False, check_values=check_values)
    weight.detach().masked_fill_(~mask, 0)
