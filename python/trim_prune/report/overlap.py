"""How far two prunes chose the same weights, counted in their masks."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..formats.masks import Overlap
from .masks import kept_of, masks_of_run, matrices
from .run import Linear


def overlaps(first: Path, second: Path, linears: list[Linear]) -> dict[str, float | None]:
    """The :attr:`Overlap.share` by the name of each of :func:`matrices`; None if none go, or only one run has it."""
    found: dict[str, float | None] = {}
    masks = masks_of_run(first), masks_of_run(second)
    for linear in matrices(masks[0], linears):
        ours, theirs = (kept_of(file, linear) for file in masks)
        found[linear["name"]] = None if ours is None or theirs is None else overlap(ours, theirs)
    return found


def overlap(ours: Tensor, theirs: Tensor) -> float | None:
    """Of what two prunes keep, bool [R, C]: the share of what either prunes that both prune."""
    first, second, both = (int((~kept).sum()) for kept in (ours, theirs, ours | theirs))
    return Overlap(ours.numel(), first, second, both).share
