"""Keep n of every m consecutive columns and zero the rest, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_keep_of, check_scoring, check_weight, check_writable


def prune_nm_(
    weight: Tensor,
    keep: int,
    of: int,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Set every weight that :func:`trim_kernels.nm_mask` does not keep to zero; return ``weight``.

    Arguments and errors are those of :func:`trim_kernels.nm_mask`; after an error ``weight`` is as it was. The other
    weights keep their bits. Not differentiable: autograd does not see the change.
    """
    check_weight(weight)
    check_writable(weight)
    check_keep_of(keep, of)
    check_scoring(weight, column_scale, score)
    torch.ops.trim_kernels.prune_nm_(weight, keep, of, column_scale, score, check_values, backend)
    return weight
