"""Zero the lowest scores of every row, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import as_prune_count, check_scoring, check_weight, check_writable


def prune_rows_(
    weight: Tensor,
    prune_count: int | Tensor,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Set the ``prune_count[i]`` lowest scores of each row i of ``weight`` to zero; return ``weight``.

    Scores, ties, arguments and errors are those of :func:`trim_kernels.row_threshold`; after an error ``weight`` is as
    it was. The other weights keep their bits. Not differentiable: autograd does not see the change.
    """
    check_weight(weight)
    check_writable(weight)
    check_scoring(weight, column_scale, score)
    counts = as_prune_count(weight, prune_count)
    torch.ops.trim_kernels.prune_rows_(weight, counts, column_scale, score, check_values, backend)
    return weight
