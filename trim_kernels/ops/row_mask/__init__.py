"""The keep mask of a matrix whose rows lose given numbers of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import as_prune_count, check_scoring, check_weight


def row_mask(
    weight: Tensor,
    prune_count: int | Tensor,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    packed: bool = False,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Mask of the weights that stay when row i loses its ``prune_count[i]`` lowest scores.

    Scores, ties, arguments and errors are those of :func:`trim_kernels.row_threshold`.

    Returns:
        bool [R, C], True = kept; or with ``packed`` uint8 [R, ceil(C / 8)], bit 1 = kept, lowest column in the lowest
        bit (:func:`trim_kernels.unpack_bits` turns it back).
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    counts = as_prune_count(weight, prune_count)
    mask: Tensor = torch.ops.trim_kernels.row_mask(weight, counts, column_scale, score, packed, check_values, backend)
    return mask
