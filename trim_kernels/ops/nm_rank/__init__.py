"""The rank of every weight in its group of columns: one answer for every keep n of m."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_of, check_scoring, check_weight


def nm_rank(
    weight: Tensor,
    of: int,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """How many weights of its group of ``of`` consecutive columns come after each weight in pruning order.

    ``rank[i, j] = number of columns k with k // of == j // of and (score[i, k], k) > (score[i, j], j)``: 0 is the
    highest score of its group, the last to go, and of equal scores the lower column goes first. So one call gives the
    masks for every n: ``rank < n`` is ``nm_mask(weight, n, of)``. Where ``of`` does not divide C, the last group of
    ``tail`` columns keeps ``rank < ceil(n * tail / of)``.

    Scores, the other arguments and errors are those of :func:`trim_kernels.row_threshold`. Source: fine-grained
    structured sparsity, arXiv 2102.04010.

    Args:
        weight: float32, bfloat16 or float16 [R, C].
        of: columns of a group, from 1 to 32.

    Returns:
        uint8 [R, C], from 0 to ``of - 1``.
    """
    check_weight(weight)
    check_of(of)
    check_scoring(weight, column_scale, score)
    rank: Tensor = torch.ops.trim_kernels.nm_rank(weight, of, column_scale, score, check_values, backend)
    return rank
