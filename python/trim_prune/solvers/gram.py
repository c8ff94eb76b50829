"""The Gram matrix as solvers that minimise the output error use it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..calibration.statistics import LinearStatistics
from ..factor import Factor, damped


def damped_correlation(
    statistics: LinearStatistics, damping: float | None, factor: Factor | None = None
) -> tuple[Tensor, Tensor]:
    """The damped Gram matrix H, as diag(norm) K diag(norm) up to a scalar, K of unit diagonal.

    H is that of :func:`damped`, or the one that ``factor`` was made of if a rung of the ladder was climbed. A column
    without input has norm 0 if damping is None and no rung was climbed, and row and column 0 in K but for its diagonal.

    Returns:
        K float32 [C, C]; norm float32 [C], the largest of which is 1.
    """
    if factor is None or factor.hessian is None:
        correlation = damped(statistics.gram, statistics.tokens, damping)
    else:
        correlation = factor.hessian.clone()
    # The largest norm becomes 1, so that no square of a weight overflows.
    norm = correlation.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norm > 0, 1 / norm, 0)
    correlation *= inverse
    correlation *= inverse[:, None]
    correlation.fill_diagonal_(1)
    norm = norm / norm.max().clamp(min=torch.finfo(norm.dtype).tiny)
    return correlation.to(torch.float32), norm.to(torch.float32)


def conjugate_gradients(start: Tensor, residual: Tensor, correlation: Tensor, kept: Tensor, steps: int) -> Tensor:
    """Weights float32 [R, C] that bring every row nearer to the least squares of its support.

    ``residual`` is (dense - start) K, of which what is not kept does not count. The unit diagonal of K is the
    preconditioner.
    """
    solution, residual = start, residual.masked_fill(~kept, 0)
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
