"""The damped Gram matrix, the factor of its inverse, and the ladder that a failed factorisation climbs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    factorisation succeeded.
    """

    upper: Tensor | None
    steps: tuple[str, ...] = ()


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

    Dead columns (their diagonal becomes 1), ten times the damping up to five times, float64, eigenvalues clipped from
    below, and, if nothing helps, no factor: then only a mask is possible.
    """
    steps: list[str] = []
    for step, hessian in _ladder(gram, tokens, damping):
        if step:
            steps.append(step)
        try:
            return Factor(trim_kernels.inverse_factor(hessian).to(torch.float32), tuple(steps))
        except ValueError:
            continue
    return Factor(None, (*steps, MASK_ONLY))


def _ladder(gram: Tensor, tokens: int, damping: float | None) -> Iterator[tuple[str, Tensor]]:
    hessian = damped(gram, tokens, damping)
    if damping is None:
        # A column without input gets no damping of its own; any number would do.
        hessian.diagonal()[gram.diagonal() == 0] = gram.diagonal().mean()
    yield "", hessian
    alive = gram.clone()
    dead = alive.diagonal() <= 0
    if dead.any():
        alive.diagonal()[dead] = 1.0
        yield f"{int(dead.sum())} dead columns", damped(alive, tokens, damping)
    for times in TIMES:
        yield f"damping times {times}", damped(alive, tokens, damping, times=times)
    wide = damped(alive.to(torch.float64), tokens, damping)
    yield "float64", wide
    if torch.isfinite(wide).all():
        values, vectors = torch.linalg.eigh(wide)
        clipped = values.clamp(min=float(values.clamp(min=0).mean()) / 100)
        yield "eigenvalues clipped", (vectors * clipped) @ vectors.t()
