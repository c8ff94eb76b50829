"""What is left of a part takes over what went: a regression of the dense output on the output, or on the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..factor import factorise

Repair = Literal["none", "affine", "full"]

AFFINE_ONLY = "affine only"


@dataclass(frozen=True)
class Inputs:
    """Moments of what enters a consumer: ``mean`` [C], ``covariance`` [C, C], in one dtype; from so many tokens."""

    mean: Tensor
    covariance: Tensor
    tokens: int


@dataclass(frozen=True)
class Repaired:
    """``weight`` [D, K] and ``bias`` [D] (None: no bias may be added) for the inputs that are kept.

    ``how``: "none", "affine", "slope" (affine through the origin) or "full". ``error``: mean square of what the output
    lacks, as a share of its own mean square, without repair; ``repaired_error``: with it; None where nothing was
    measured. ``steps``: what a failed factorisation had to fall back to.
    """

    weight: Tensor
    bias: Tensor | None
    how: str
    error: float | None
    repaired_error: float | None
    steps: tuple[str, ...] = ()


def repair(
    weight: Tensor, inputs: Inputs, columns: Tensor, how: Repair, *, intercept: bool, damping: float | None
) -> Repaired:
    """The consumer's weight [D, C] for the columns that are kept.

    With x = W_K a_K the output of what is kept and y = W a the whole one, both without bias:

    - affine (SlimLLM): y_i = slope_i x_i + intercept_i, least squares over all tokens, two numbers an output. Without
      intercept, where no bias can be held, through the origin.
    - full: W' = W_K + (y - x) a_K^T (a_K a_K^T + damping)^-1, ridge least squares on the kept inputs; the damping draws
      towards the weights as they are, and is that of :func:`trim_prune.factor.damped`.

    An output that is constant over all tokens keeps its weights.
    """
    kept, mean = weight[:, columns], inputs.mean[columns]
    known = weight @ inputs.covariance
    inner = inputs.covariance[columns][:, columns]
    own = kept @ inner
    x_mean, y_mean = kept @ mean, weight @ inputs.mean
    # Squares and products about the means; the errors below count the means too.
    yy, xy = (known * weight).sum(dim=1), (known[:, columns] * kept).sum(dim=1)
    xx = (own * kept).sum(dim=1)
    whole = float((yy + y_mean.square()).sum())

    def error(residual: Tensor, offset: Tensor) -> float:
        return float((residual.clamp(min=0) + offset.square()).sum()) / whole if whole > 0 else 0.0

    before = error(yy - 2 * xy + xx, y_mean - x_mean)
    steps: tuple[str, ...] = ()
    if how == "none":
        return Repaired(kept, None, "none", before, before)
    if how == "full":
        gap, gram = known[:, columns] - own, inner
        if not intercept:
            gap = gap + torch.outer(y_mean - x_mean, mean)
            gram = inner + torch.outer(mean, mean)
        factor = factorise(gram, inputs.tokens, damping)
        if factor.upper is not None:
            upper = factor.upper.to(weight.dtype)
            new = kept + (gap @ upper.mT) @ upper
            left = yy - 2 * (known[:, columns] * new).sum(dim=1) + ((new @ inner) * new).sum(dim=1)
            offset = y_mean - new @ mean
            bias = offset if intercept else None
            after = error(left, torch.zeros_like(offset) if intercept else offset)
            return Repaired(new, bias, "full", before, after, factor.steps)
        steps = (*factor.steps[:-1], AFFINE_ONLY)
    noise = 100 * torch.finfo(weight.dtype).eps * (kept.square() @ inner.diagonal())
    if intercept:
        slope = torch.where(xx > noise, xy / xx.clamp(min=torch.finfo(weight.dtype).tiny), 1.0)
        bias = y_mean - slope * x_mean
        after = error(yy - 2 * slope * xy + slope.square() * xx, torch.zeros_like(bias))
        return Repaired(slope[:, None] * kept, bias, "affine", before, after, steps)
    square, product = xx + x_mean.square(), xy + x_mean * y_mean
    slope = torch.where(square > noise, product / square.clamp(min=torch.finfo(weight.dtype).tiny), 1.0)
    after = error(yy - 2 * slope * xy + slope.square() * xx, y_mean - slope * x_mean)
    return Repaired(slope[:, None] * kept, None, "slope", before, after, steps)
