"""The scores that OWL and DLP measure blocks by: Wanda's, whatever score the recipe prunes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trim_kernels.scoring import scores

from ...models.discover import Linear
from ...scores.wanda import column_norm
from ...tiles import row_tiles
from .base import LayerRequest


def wanda_scores(request: LayerRequest, linears: Sequence[Linear]) -> Iterator[Tensor]:
    """Float32: abs(w_ij) * column scale of all weights of some linears, some rows at a time, in order.

    Computed where the statistics are: the weights may wait elsewhere.

    Raises:
        ValueError: the column scale of a linear overflows float32.
    """
    for linear in linears:
        statistics, weight = request.statistics[linear], linear.weight
        scale = column_norm(statistics).to(torch.float32)
        if not torch.isfinite(scale).all():
            raise ValueError(f"Wanda's column scale of {linear.name}: expected finite values, got an overflow")
        for rows in row_tiles(weight, scale.device):
            yield scores(weight[rows].to(scale.device), scale, None)
