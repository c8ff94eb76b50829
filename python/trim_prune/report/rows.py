"""How the rows of a linear share what it loses, counted in the masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .masks import kept_of, masks_of_run, matrices
from .run import Linear

BINS = 50
"""Of the sparsity of a row: 2 % each, the last with both its ends."""


def row_histograms(folder: Path, linears: Sequence[Linear]) -> dict[str, list[int]]:
    """By the name of each of :func:`matrices`: how many of its rows lose a share of each bin."""
    found, masks = {}, masks_of_run(folder)
    for linear in matrices(masks, linears):
        columns, kept = linear["shape"][1], kept_of(masks, linear)
        if kept is not None:
            found[linear["name"]] = histogram(columns - kept.sum(dim=1), columns)
    return found


def histogram(pruned: Tensor, columns: int) -> list[int]:
    """How many of some rows with ``columns`` weights lose a share of each bin; integers decide, not rounding."""
    bins = torch.div(pruned * BINS, columns, rounding_mode="floor").clamp_(max=BINS - 1)
    return torch.bincount(bins, minlength=BINS).tolist()
