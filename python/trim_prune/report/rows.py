"""How the rows of a linear share what it loses, counted in the masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trim_kernels import unpack_bits

from .masks import open_masks
from .run import Linear

BINS = 50
"""Of the sparsity of a row: 2 % each, the last with both its ends."""


def row_histograms(folder: Path, linears: Sequence[Linear]) -> dict[str, list[int]]:
    """By the name of the linear: how many of its rows lose a share of each bin."""
    found = {}
    with open_masks(folder) as masks:
        for linear in linears:
            columns = linear["shape"][1]
            kept = unpack_bits(masks.get_tensor(f"{linear['name']}.weight"), columns).sum(dim=1)
            found[linear["name"]] = histogram(columns - kept, columns)
    return found


def histogram(pruned: Tensor, columns: int) -> list[int]:
    """How many of some rows with ``columns`` weights lose a share of each bin; integers decide, not rounding."""
    bins = torch.div(pruned * BINS, columns, rounding_mode="floor").clamp_(max=BINS - 1)
    return torch.bincount(bins, minlength=BINS).tolist()
