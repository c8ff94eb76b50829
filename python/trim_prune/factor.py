"""The factor of an inverse Hessian, and the ladder that a failed factorisation climbs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import trim_kernels

DAMPING = 0.01
"""Added to the diagonal, as a share of its mean; SparseGPT's value."""
MORE_DAMPING = tuple(DAMPING * 10**power for power in range(1, 6))
MASK_ONLY = "mask only"


@dataclass(frozen=True)
class Factor:
    """``upper`` float32 [C, C]: U, upper triangular, with U^T U the inverse of the damped Gram matrix.

    None when every rung of the ladder failed. ``steps``: the rungs that were climbed, in order; empty when the first
    factorisation succeeded.
    """

    upper: Tensor | None
    steps: tuple[str, ...] = ()


def factorise(gram: Tensor) -> Factor:
    """The factor of a symmetric Gram matrix [C, C] with 1 % damping; each rung is tried only after the one before.

    Dead columns (their diagonal becomes 1), ten times the damping up to five times, float64, eigenvalues clipped from
    below, and, if nothing helps, no factor: then only a mask is possible.
    """
    steps: list[str] = []
    for step, hessian in _ladder(gram):
        if step:
            steps.append(step)
        try:
            return Factor(trim_kernels.inverse_factor(hessian).to(torch.float32), tuple(steps))
        except ValueError:
            continue
    return Factor(None, (*steps, MASK_ONLY))


def _ladder(gram: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "", _damped(gram, DAMPING)
    alive = gram.clone()
    dead = alive.diagonal() <= 0
    if dead.any():
        alive.diagonal()[dead] = 1.0
        yield f"{int(dead.sum())} dead columns", _damped(alive, DAMPING)
    for damping in MORE_DAMPING:
        yield f"damping {damping:g}", _damped(alive, damping)
    wide = _damped(alive.to(torch.float64), DAMPING)
    yield "float64", wide
    if torch.isfinite(wide).all():
        values, vectors = torch.linalg.eigh(wide)
        clipped = values.clamp(min=float(DAMPING * values.clamp(min=0).mean()))
        yield "eigenvalues clipped", (vectors * clipped) @ vectors.t()


def _damped(gram: Tensor, damping: float) -> Tensor:
    damped = gram.clone()
    damped.diagonal().add_(damping * gram.diagonal().mean())
    return damped
