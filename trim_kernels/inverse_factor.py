"""The triangular factor of an inverse, by one Cholesky factorisation."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import describe
from trim_kernels.precision import full_float32
from trim_kernels.scoring import require_finite_tensor, surely_finite

_PANEL = 256
"""Rows that are inverted at once."""
_PRODUCTS = 8
"""By how many products at most: with one, half of the operations would be with zeros."""
_LEAF = 128
"""Columns of a triangle that torch inverts."""
_STRIP = 1024
"""Rows that are reflected at once."""


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper triangular U [C, C] with ``inverse(hessian) = U^T U``: the factor of :func:`trim_kernels.obs_update_`.

    The reversed matrix is factored: ``J H J = L L^T``, where J reverses the order. So ``H = A A^T`` with
    ``A = J L J`` upper triangular, ``inverse(H) = inverse(A)^T inverse(A)`` and ``U = inverse(A) = J inverse(L) J``.
    The inverse itself is never formed. Takes the memory of the result and a few strips.

    Args:
        hessian: float32 or float64 [C, C], symmetric and positive definite; only its lower triangle is read, which is
            the one that :func:`trim_kernels.gram_` fills.

    Returns:
        U, contiguous, of the dtype of ``hessian``; zero below the diagonal. Not differentiable.

    Raises:
        ValueError: not such a matrix; NaN or infinity; or not positive definite in this precision.
    """
    _check(hessian)
    with torch.no_grad(), full_float32(hessian.device):
        reversed_ = hessian.flip(0, 1).contiguous()
        # LAPACK works on columns: the transposed view is factored where it lies.
        lower = reversed_.mT
        info = torch.empty((), dtype=torch.int32, device=hessian.device)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if int(info) or not surely_finite(lower):
            require_finite_tensor("hessian", hessian.tril())
        if int(info):
            raise ValueError(
                f"hessian: expected a positive definite matrix in {str(hessian.dtype).removeprefix('torch.')}, got one "
                f"that is not from its last {int(info)} columns on; add to its diagonal"
            )
        _invert(lower)
        _reflect(reversed_)
    return reversed_


def _check(hessian: Tensor) -> None:
    if (
        not isinstance(hessian, Tensor)
        or hessian.dim() != 2
        or hessian.shape[0] != hessian.shape[1]
        or hessian.shape[0] == 0
        or hessian.dtype not in (torch.float32, torch.float64)
    ):
        raise ValueError(f"hessian: expected a float32 or float64 matrix [C, C] with C >= 1, got {describe(hessian)}")


def _invert(lower: Tensor) -> None:
    """Invert a lower triangular matrix in place: ``-inverse(last) @ row @ inverse(first)`` below what is inverted."""
    for begin in range(0, len(lower), _PANEL):
        rows = slice(begin, begin + _PANEL)
        _invert_leaf(lower[rows, rows])
        row = lower[rows, :begin].clone()
        # A few products, each only with the rows that are not zero above its columns.
        width = max(_PANEL, begin // _PRODUCTS)
        for first in range(0, begin, width):
            columns = slice(first, min(first + width, begin))
            lower[rows, columns] = lower[rows, rows] @ (row[:, first:] @ lower[first:begin, columns]).neg_()


def _invert_leaf(lower: Tensor) -> None:
    """As :func:`_invert`, of a small matrix, by halves."""
    size = len(lower)
    if size <= _LEAF:
        unit = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, unit, upper=False))
        return
    half = size // 2
    first, corner, last = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    _invert_leaf(first)
    _invert_leaf(last)
    corner.addmm_(last @ corner, first, beta=0, alpha=-1)


def _reflect(matrix: Tensor) -> None:
    """``matrix[i, j] = matrix[C - 1 - j, C - 1 - i]`` in place, strip after strip from the outside."""
    size = len(matrix)
    for begin in range(0, (size + 1) // 2, _STRIP):
        end, stop = min(begin + _STRIP, (size + 1) // 2), size - begin
        across, down = matrix[begin:end, begin : size - end], matrix[end:stop, size - end : stop]
        corner, saved = matrix[begin:end, size - end : stop], across.clone()
        across.copy_(down.mT.flip(0, 1))
        down.copy_(saved.mT.flip(0, 1))
        corner.copy_(corner.mT.flip(0, 1))
