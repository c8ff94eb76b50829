"""How far two prunes chose the same weights, counted in their masks."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from trim_kernels import unpack_bits

from .masks import open_masks
from .run import Linear


def overlaps(first: Path, second: Path, linears: list[Linear]) -> dict[str, float | None]:
    """By the name of the linear, the weights that both prune as a share of those that either does.

    1: the same weights. Two masks that know nothing of each other, of sparsity s, have s / (2 - s). None: none go.
    """
    found = {}
    with open_masks(first) as ours, open_masks(second) as theirs:
        for linear in linears:
            name = f"{linear['name']}.weight"
            found[linear["name"]] = overlap(ours.get_tensor(name), theirs.get_tensor(name), linear["shape"][1])
    return found


def overlap(ours: Tensor, theirs: Tensor, columns: int) -> float | None:
    """Of two packed masks uint8 [R, ceil(C/8)], bit 1 = kept."""
    both = int(unpack_bits(ours | theirs, columns).logical_not_().sum())
    either = int(unpack_bits(ours & theirs, columns).logical_not_().sum())
    return both / either if either else None
