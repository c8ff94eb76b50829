"""What each row's output loses as more and more of its weights go."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_band, check_gram_of, check_scoring, check_weight


def row_error_curve(
    weight: Tensor,
    gram: Tensor,
    first_count: int,
    last_count: int,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> Tensor:
    """``curve[i, t] = d^T G d``, where d is row i reduced to its ``first_count + t`` lowest-scored weights, else zero.

    With ``G = sum over tokens of x x^T`` that is the squared error of output i over these tokens when these weights go.
    They go in the order of :func:`trim_kernels.row_order`. Products are summed in float32 over a few columns at a time,
    all else in float64. What comes out is off by less than 1e-6 of itself, or, where ``d^T G d`` is a small difference
    of large products (``|d|^T |G| |d|`` many times larger), by about 1e-8 of these: it may then be negative. Memory
    beside the result does not grow with the number of rows.

    Args:
        weight, column_scale, score, check_values, backend: as in :func:`trim_kernels.row_threshold`.
        gram: float32 [C, C], symmetric: both triangles are read (:func:`trim_kernels.gram_` fills only the lower one).
        first_count, last_count: ``0 <= first_count <= last_count <= C``, the same for all rows.

    Returns:
        float32 [R, last_count - first_count + 1]

    Raises:
        ValueError: as :func:`trim_kernels.row_threshold`, and for ``gram`` and the counts alike; errors beyond float32.
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    check_gram_of(weight, gram)
    check_band(first_count, last_count, weight.shape[1])
    curve: Tensor = torch.ops.trim_kernels.row_error_curve(
        weight, gram, first_count, last_count, column_scale, score, check_values, backend
    )
    return curve
