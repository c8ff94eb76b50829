"""OWL (Yin et al. 2023, arXiv 2310.05175): blocks with more outliers among their scores keep more weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...models.discover import Linear
from .base import LayerRequest, register_layer_budget
from .ratios import keep_ratios
from .wanda_scores import wanda_scores


@register_layer_budget("owl", needs=["column_energy"])
def owl(request: LayerRequest) -> Sequence[float]:
    """One sparsity per block, by its layerwise outlier distribution (LOD), for every linear of the block.

    LOD_l = 100 * share of the scores of block l above m * their mean, over all its linears together; the keep ratios
    are the LODs scaled to a range of 2 * lamda around 1 - sparsity. The scores are Wanda's, whatever score the recipe
    prunes with. Source: OWL's published code; ours takes the mean in float64 and never joins the scores of a block.
    """
    options, blocks = request.recipe.owl, request.blocks
    outliers = []
    for block, linears in blocks.items():
        with request.on_device(block):
            outliers.append(outlier_share(request, linears, options.m))
    keep = dict(zip(blocks, keep_ratios(outliers, 2 * options.lamda, request.sparsity), strict=True))
    return [1 - keep[linear.block] for linear in request.linears]


def outlier_share(request: LayerRequest, linears: Sequence[Linear], m: float) -> float:
    """LOD in percent: 100 * (scores > m * mean score) / scores, over some linears together."""
    size = sum(linear.size for linear in linears)
    total = sum(float(tile.sum(dtype=torch.float64)) for tile in wanda_scores(request, linears))
    threshold = m * total / size
    return 100 * sum(int((tile > threshold).sum()) for tile in wanda_scores(request, linears)) / size
