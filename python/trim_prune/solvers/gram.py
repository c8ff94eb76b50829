"""The Gram matrix as solvers that minimise the output error use it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..calibration.statistics import LinearStatistics


def damped_correlation(statistics: LinearStatistics, damping: float | None) -> tuple[Tensor, Tensor]:
    """The damped Gram matrix of unit diagonal, and what it was divided by.

    H = G + damping * diag(G) = (1 + damping) * diag(norm) K diag(norm). A column without input has norm 0 and row and
    column 0 in K but for its diagonal. damping None: 2 * columns / tokens, which did best on inputs that were not seen,
    from half a token a column to fourteen; the fewer tokens, the less is a correlation to be trusted.

    Returns:
        K float32 [C, C]; norm float32 [C], the largest of which is 1.
    """
    gram = statistics.gram
    if damping is None:
        damping = 2 * gram.shape[0] / statistics.tokens
    # The largest norm becomes 1, so that no square of a weight overflows.
    norm = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norm > 0, 1 / norm, 0)
    correlation = gram * (inverse / (1 + damping))
    correlation *= inverse[:, None]
    correlation.fill_diagonal_(1)
    return correlation, norm / norm.max().clamp(min=torch.finfo(norm.dtype).tiny)


def conjugate_gradients(target: Tensor, correlation: Tensor, start: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Weights float32 [R, C] that bring every row nearer to the least squares of its support.

    The unit diagonal of K is the preconditioner.
    """
    solution = start
    residual = (target - solution @ correlation).masked_fill_(~kept, 0)
    direction, energy = residual, residual.square().sum(dim=1, keepdim=True)
    for _ in range(steps):
        image = (direction @ correlation).masked_fill_(~kept, 0)
        length = _ratio(energy, (direction * image).sum(dim=1, keepdim=True))
        solution, residual = solution + length * direction, residual - length * image
        left = residual.square().sum(dim=1, keepdim=True)
        direction, energy = residual + _ratio(left, energy) * direction, left
    return solution


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, 0)
