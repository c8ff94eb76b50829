"""SparseGPT as its formulas read, without any of our shortcuts (arXiv 2301.00774).

One step is one function, so that each can be timed apart: :func:`add_batch` (the Hessian, a running mean),
:func:`factorise` (dead columns, damping, Cholesky factor of the inverse) and :func:`update` (the elimination).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
DAMPING = 0.01


def add_batch(hessian: Tensor, samples: int, x: Tensor) -> int:
    """Make ``hessian``, the mean of 2 x x^T over ``samples``, that over the tokens ``x`` [T, C] as well."""
    total = samples + len(x)
    scaled = x.float() * (2 / total) ** 0.5
    hessian.mul_(samples / total).add_(scaled.t() @ scaled)
    return total


def factorise(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """The upper triangular U with inverse(H) = U^T U, where H is damped, and which columns are dead."""
    hessian = hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True), dead


def update(weight: Tensor, factor: Tensor, sparsity: float, kept: Tensor | None = None) -> Tensor:
    """Prune ``weight`` [R, C] in place; return the errors.

    Without ``kept``, each block of columns chooses for itself: whatever scores no more than the
    ``int(sparsity * weights)``-th lowest (from 0) of its scores goes.
    """
    errors = torch.zeros_like(weight)
    for first in range(0, weight.shape[1], BLOCK):
        last = min(first + BLOCK, weight.shape[1])
        block, triangle = weight[:, first:last].clone(), factor[first:last, first:last]
        error, result = torch.zeros_like(block), torch.zeros_like(block)
        if kept is None:
            scores = block**2 / triangle.diagonal() ** 2
            ascending = scores.flatten().sort().values
            stays = scores > ascending[min(int(sparsity * scores.numel()), scores.numel() - 1)]
        else:
            stays = kept[:, first:last]
        for j in range(last - first):
            column = block[:, j]
            value = torch.where(stays[:, j], column, 0)
            result[:, j] = value
            gone = (column - value) / triangle[j, j]
            block[:, j:] -= gone[:, None] @ triangle[j, j:][None]
            error[:, j] = gone
        weight[:, first:last] = result
        errors[:, first:last] = error
        weight[:, last:] -= error @ factor[first:last, last:]
    return errors
