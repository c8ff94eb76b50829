"""The damped Gram matrix, the factor of its inverse, and the ladder that a failed factorisation climbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import trim_kernels

TIMES = (10, 100, 1_000, 10_000, 100_000)
"""How much more damping is tried, in order."""
MASK_ONLY = "mask only"


@dataclass(frozen=True)
class Factor:
    """``upper`` float32 [C, C]: U, upper triangular, with U^T U the inverse of the damped Gram matrix.

    None when every rung of the ladder failed. ``steps``: the rungs that were climbed, in order; empty when the first
    factorisation succeeded. ``hessian`` float32 or float64 [C, C]: the matrix that was factored; None unless a rung was
    climbed, as it then is that of :func:`damped`.
    """

    upper: Tensor | None
    steps: tuple[str, ...] = ()
    hessian: Tensor | None = None


def damped(gram: Tensor, tokens: int, damping: float | None, *, times: float = 1) -> Tensor:
    """H = G + d, ``times`` over, for a Gram matrix [C, C] of so many tokens.

    ``damping`` a number: d is that share of the mean of G's diagonal, for every column (SparseGPT takes 0.01). None:
    d is 2 C / tokens of each column's own entry: the fewer tokens, the less is a correlation to be trusted.
    """
    hessian, diagonal = gram.clone(), gram.diagonal()
    share = 2 * len(gram) / tokens if damping is None else damping
    hessian.diagonal().add_(times * share * (diagonal if damping is None else diagonal.mean()))
    return hessian


def factorise(gram: Tensor, tokens: int, damping: float | None) -> Factor:
    """The factor of a damped symmetric Gram matrix [C, C]; each rung of the ladder is tried only after the one before.

    Dead columns (their diagonal becomes 1), ten times the damping up to five times (unless it is 0), float64,
    eigenvalues clipped from below, and, if nothing helps, no factor: then only a mask is possible.
    """
    steps: list[str] = []
    for step, make in _ladder(gram, tokens, damping):
        if step:
            steps.append(step)
        try:
            hessian = make()
            upper = trim_kernels.inverse_factor(hessian).to(torch.float32)
        except (ValueError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            continue
        return Factor(upper, tuple(steps), hessian if steps else None)
    return Factor(None, (*steps, MASK_ONLY))


def _ladder(gram: Tensor, tokens: int, damping: float | None) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    yield "", partial(_first, gram, tokens, damping)
    alive = gram.clone()
    dead = alive.diagonal() <= 0
    if dead.any():
        alive.diagonal()[dead] = 1.0
        yield f"{int(dead.sum())} dead columns", partial(damped, alive, tokens, damping)
    for times in TIMES if damping != 0 else ():
        yield f"damping times {times}", partial(damped, alive, tokens, damping, times=times)
    wide = damped(alive.to(torch.float64), tokens, damping)
    yield "float64", lambda: wide
    if torch.isfinite(wide).all():
        yield "eigenvalues clipped", partial(_clipped, wide)


def _first(gram: Tensor, tokens: int, damping: float | None) -> Tensor:
    hessian = damped(gram, tokens, damping)
    if damping is None:
        # A column without input gets no damping of its own; any number would do.
        hessian.diagonal()[gram.diagonal() == 0] = gram.diagonal().mean()
    return hessian


def _clipped(hessian: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(hessian)
    clipped = values.clamp(min=float(values.clamp(min=0).mean()) / 100)
    product: Tensor = (vectors * clipped) @ vectors.t()
    return product
