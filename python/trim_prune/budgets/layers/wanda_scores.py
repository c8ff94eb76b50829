"""The scores that OWL and DLP measure blocks by: Wanda's, whatever score the recipe prunes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trim_kernels.scoring import scores

from ...models.discover import Linear
from ...scores.wanda import column_norm
from .base import LayerRequest

ROWS = 1024
"""Rows of a linear whose scores exist at a time: those of a block of a large model would not fit beside it."""


def wanda_scores(request: LayerRequest, linears: Sequence[Linear]) -> Iterator[Tensor]:
    """Float32 [<= ROWS, C]: abs(w_ij) * column scale of all weights of some linears, tile by tile, in order.

    Computed where the statistics are: the weights may wait elsewhere.

    Raises:
        ValueError: the column scale of a linear overflows float32.
    """
    for linear in linears:
        statistics, weight = request.statistics[linear], linear.module.weight.detach()
        scale = column_norm(statistics).to(torch.float32)
        if not torch.isfinite(scale).all():
            raise ValueError(f"Wanda's column scale of {linear.name}: expected finite values, got an overflow")
        for row in range(0, weight.shape[0], ROWS):
            yield scores(weight[row : row + ROWS].to(scale.device), scale, None)
