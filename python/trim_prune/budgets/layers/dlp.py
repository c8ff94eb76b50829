"""DLP (Chen et al. 2025, arXiv 2505.23807): blocks with a smaller median score keep more weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

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
    medians = [
        lower_median(partial(wanda_scores, request, linears), sum(linear.size for linear in linears))
        for linears in blocks.values()
    ]
    # The scaling cancels the sum of all medians, and the 1: what is left cannot divide by zero.
    ratios = keep_ratios([-median for median in medians], width, request.sparsity)
    keep = dict(zip(blocks, ratios, strict=True))
    return [1 - keep[linear.block] for linear in request.linears]


def lower_median(tiles: Callable[[], Iterable[Tensor]], size: int) -> float:
    """The median of all ``size`` values of some float32 tiles, none negative: ``torch.median`` of them joined.

    Of an even number of values it is the lower middle one. The bits of such floats are ordered as the floats are, so
    two counts of 2^15 and 2^16 bins find the value itself; the tiles are made twice and never joined.
    """
    key, rank = 0, (size - 1) // 2
    for shift, width in ((16, 15), (0, 16)):
        counts = sum(_digit_counts(tile, key, shift, width) for tile in tiles())
        assert isinstance(counts, Tensor)
        below = counts.cumsum(0)
        digit = int((below <= rank).sum())
        rank -= int(below[digit] - counts[digit])
        key = (key << width) | digit
    return float(torch.tensor(key, dtype=torch.int32).view(torch.float32))


def _digit_counts(tile: Tensor, prefix: int, shift: int, width: int) -> Tensor:
    """How many keys that begin with ``prefix`` go on with each of 2^width digits."""
    keys = tile.view(torch.int32).flatten()
    keys = keys[keys >> (shift + width) == prefix]
    return torch.bincount((keys >> shift) & ((1 << width) - 1), minlength=1 << width)
