"""How far two prunes chose the same weights, counted in their masks."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from trim_kernels import unpack_bits

from ..formats.masks import MASK_FILE
from .run import Linear


def overlaps(first: Path, second: Path, linears: list[Linear]) -> dict[str, float | None]:
    """By the name of the linear, the weights that both prune as a share of those that either does.

    1: the same weights. Two masks that know nothing of each other, of sparsity s, have s / (2 - s). None: none go.
    """
    found = {}
    with safe_open(first / MASK_FILE, "pt") as ours, safe_open(second / MASK_FILE, "pt") as theirs:
        for linear in linears:
            name = f"{linear['name']}.weight"
            found[linear["name"]] = overlap(ours.get_tensor(name), theirs.get_tensor(name), linear["shape"][1])
    return found


def overlap(ours: Tensor, theirs: Tensor, columns: int) -> float | None:
    """Of two packed masks uint8 [R, ceil(C/8)], bit 1 = kept."""
    both = int(unpack_bits(ours | theirs, columns).logical_not_().sum())
    either = int(unpack_bits(ours & theirs, columns).logical_not_().sum())
    return both / either if either else None
