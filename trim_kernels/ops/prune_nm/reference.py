"""prune_nm_ in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trim_kernels.ops.nm_mask.reference import nm_mask


def refusal(call: Mapping[str, object]) -> None:
    return None


def prune_nm_(
    weight: Tensor,
    keep: int,
    of: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> None:
    mask = nm_mask(weight, keep, of, column_scale, score, packed=False, check_values=check_values)
    weight.detach().masked_fill_(~mask, 0)
