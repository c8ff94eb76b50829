"""The keep mask of a matrix that keeps n of every m consecutive columns."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_keep_of, check_scoring, check_weight


def nm_mask(
    weight: Tensor,
    keep: int,
    of: int,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    packed: bool = False,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Mask of the weights that stay when every ``of`` consecutive columns of a row keep their ``keep`` highest scores.

    Scores, ties (of equal scores the lower column goes first), the other arguments and errors are those of
    :func:`trim_kernels.row_threshold`. Where ``of`` does not divide C, the last group of ``tail`` columns keeps
    ``ceil(keep * tail / of)``. Source: fine-grained structured sparsity, arXiv 2102.04010.

    Args:
        weight: float32, bfloat16 or float16 [R, C].
        keep: how many weights of a group stay, from 0 to ``of``.
        of: columns of a group, from 1 to 32.

    Returns:
        bool [R, C], True = kept; or with ``packed`` uint8 [R, ceil(C / 8)] as from :func:`trim_kernels.row_mask`:
        groups share bytes where ``of`` is no multiple of 8.
    """
    check_weight(weight)
    check_keep_of(keep, of)
    check_scoring(weight, column_scale, score)
    mask: Tensor = torch.ops.trim_kernels.nm_mask(weight, keep, of, column_scale, score, packed, check_values, backend)
    return mask
