"""ALPS (Meng et al. 2024, arXiv 2406.07831): weights and support by ADMM, finished by conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels

from .base import SolveRequest, register_solver
from .gram import conjugate_gradients, damped_correlation
from .mask import mask as mask_only

RHO_STEPS = 3
"""ADMM steps between two values of rho."""
RHO_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""What rho is multiplied with if more than that share of the support moved."""
SETTLED = 3e-4
"""The support stands still if less than that share of it moved, after so many steps:"""
SETTLED_AFTER = 30
ROUNDING = 4
"""So many times the precision of float32 may a weight be off that was scaled and scaled back."""


@register_solver("alps", needs=["gram"], patterns=True)
def alps(request: SolveRequest) -> Tensor:
    """Minimise the output error ||(W - What) X||^2 over the weights of a support, and over the support too.

    The support starts as the mask of the scores and keeps its counts of each row, of each group with a pattern, or only
    their sum where rows compete; with ``support: score`` it stays that mask. All of it in float32, over columns scaled
    to unit norm, with the damped Gram matrix of :func:`damped_correlation`. No row ends worse than with the plain mask
    on the calibration inputs; where rows compete, the linear as a whole does not. Without a factor of that matrix it is
    the plain mask.
    """
    factor = request.statistics.factor(request.recipe.damping)
    if factor.upper is None:
        return mask_only(request)
    weight, options = request.weight, request.recipe.alps
    mask = request.mask()
    correlation, norm = damped_correlation(request.statistics, request.recipe.damping, factor)
    dense = weight.to(torch.float32)
    # No square of a weight overflows.
    size = dense.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    sparse, kept = dense / size * norm, mask
    target = sparse @ correlation
    sparse.masked_fill_(~mask, 0)
    if options.support == "rows":
        try:
            sparse, kept = _admm(target, correlation, sparse, mask, request)
        # No factor, or weights that grew beyond all bounds.
        except (torch.linalg.LinAlgError, ValueError) as error:  # type: ignore[attr-defined]
            request.steps.append(f"alps: support of the scores, ADMM failed ({error})")
    sparse = conjugate_gradients(sparse, target - sparse @ correlation, correlation, kept, options.cg_steps)
    # A column without input gets no new weights, and a row that loses nothing keeps its own to the last bit.
    solved = torch.where(norm > 0, sparse / norm * size, dense).where(~kept.all(dim=1, keepdim=True), dense)
    solved = solved.to(weight.dtype).masked_fill_(~kept, 0)
    worse, clearly = _worse_rows(request, solved, mask)
    if clearly.any():
        request.steps.append(f"alps: kept the mask's weights in {int(clearly.sum())} rows")
    weight.copy_(torch.where(worse[:, None], weight.masked_fill(~mask, 0), solved))
    return trim_kernels.pack_bits(torch.where(worse[:, None], mask, kept))


def _admm(
    target: Tensor, correlation: Tensor, sparse: Tensor, kept: Tensor, request: SolveRequest
) -> tuple[Tensor, Tensor]:
    """Weights float32 [R, C] of a support, and the support, that ADMM finds from ``sparse`` and ``kept``.

    With W K the target: B = (W K - V + rho D) (K + rho)^-1; D = the largest of B + V / rho; V += rho (B - D). Every 3
    steps rho grows, the faster the more of the support moved, until it stands still. Published but for three
    differences: rho starts at 0.3 by default in place of 0.1, the ridge within K is that of the recipe's damping (by
    default 2 C / tokens of each diagonal entry in place of 1 % of their mean), and it ends at ``SETTLED`` too.
    """
    rho, total, before = request.recipe.alps.rho, int(kept.sum()), kept
    dual, inverse = torch.zeros_like(target), _inverse(correlation, rho)
    for step in range(1, request.recipe.alps.iterations + 1):
        shifted = (target - dual + rho * sparse) @ inverse + dual / rho
        kept = _largest(shifted, request)
        sparse = shifted.masked_fill(~kept, 0)
        dual = rho * (shifted - sparse)
        if step % RHO_STEPS:
            continue
        moved = int((kept != before).sum())
        if moved == 0 or (step >= SETTLED_AFTER and moved < SETTLED * total):
            break
        rho *= next(growth for share, growth in RHO_GROWTH if moved > share * total)
        inverse, before = _inverse(correlation, rho), kept
    return sparse, kept


def _inverse(correlation: Tensor, rho: float) -> Tensor:
    """(K + rho)^-1, by one factorisation for each of the few rho that ADMM takes.

    With one eigendecomposition for all of them every step would be two products in place of one.
    """
    damped = correlation.clone()
    damped.diagonal().add_(rho)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def _largest(values: Tensor, request: SolveRequest) -> Tensor:
    """Bool [R, C]: all but the smallest magnitudes of each row, of each group, or of the matrix where rows compete."""
    if request.pattern is not None:
        return trim_kernels.nm_mask(values, *request.pattern)
    if not request.rows_compete:
        return trim_kernels.row_mask(values, request.prune_count)
    count = int(request.prune_count.sum())
    return trim_kernels.row_mask(values.view(1, -1), count).view(values.shape)


def _worse_rows(request: SolveRequest, solved: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [R]: rows whose output error is above that of the mask, or NaN; all or none of them where rows compete.

    Beside it, those of which it is by more than the rounding of their weights, in float32, explains: the root of an
    error is a norm, which sum_j abs(w_j) sqrt(G_jj) eps bounds for a weight that is off by eps.
    """
    weight, gram = request.weight.to(torch.float32), request.statistics.gram
    size = weight.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)

    def error(pruned: Tensor) -> Tensor:
        difference = (weight - pruned.to(torch.float32)) / size
        return ((difference @ gram) * difference).sum(dim=1)

    ours, plain = error(solved), error(weight.masked_fill(~mask, 0))
    slack = ROUNDING * torch.finfo(torch.float32).eps * ((weight / size).abs() @ gram.diagonal().sqrt())
    if request.rows_compete:
        # A row alone cannot go back to the mask: it may have another count.
        ours, plain = ours.sum().expand_as(ours), plain.sum().expand_as(plain)
        slack = slack.norm().expand_as(slack)
    return ~(ours <= plain), ~(ours.clamp(min=0).sqrt() <= plain.clamp(min=0).sqrt() + slack)
