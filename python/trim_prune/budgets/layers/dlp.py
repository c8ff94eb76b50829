"""DLP (Chen et al. 2025, arXiv 2505.23807): blocks with a smaller median score keep more weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ...ranks import Tiles, key_of_rank
from .base import LayerRequest, register_layer_budget
from .ratios import keep_ratios
from .wanda_scores import wanda_scores


@register_layer_budget("dlp", needs=["column_energy"])
def dlp(request: LayerRequest) -> Sequence[float]:
    """One sparsity per block, by the median of its scores, for every linear of the block.

    A block's importance is 1 - median_l / sum of all medians; the keep ratios are the importances scaled to a range of
    2 * alpha around 1 - sparsity. The scores are Wanda's, whatever score the recipe prunes with. Source: DLP's
    published formulas.
    """
    blocks, width = request.blocks, 2 * request.recipe.dlp.alpha
    medians = []
    for block, linears in blocks.items():
        with request.on_device(block):
            scores = partial(wanda_scores, request, linears)
            medians.append(lower_median(scores, sum(linear.size for linear in linears)))
    # The scaling cancels the sum of all medians, and the 1: what is left cannot divide by zero.
    ratios = keep_ratios([-median for median in medians], width, request.sparsity)
    keep = dict(zip(blocks, ratios, strict=True))
    return [1 - keep[linear.block] for linear in request.linears]


def lower_median(tiles: Tiles, size: int) -> float:
    """The median of all ``size`` values of some float32 tiles, none negative: ``torch.median`` of them joined.

    Of an even number of values it is the lower middle one. The tiles are made twice and never joined.
    """
    key, _ = key_of_rank(tiles, (size + 1) // 2)
    return float(torch.tensor(key, dtype=torch.int32).view(torch.float32))
