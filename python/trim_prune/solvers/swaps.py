"""Swaps (SparseSwaps 2025, arXiv 2512.10922): exchange kept against pruned weights while the output error falls."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

import trim_kernels

from ..options import SwapsOptions
from ..tiles import row_tiles
from .base import SolveRequest, register_solver
from .gram import damped_correlation

EXCHANGES = 8
"""Exchanges of a row within one shortlist."""
TOLERANCE = 1e-6
"""The least gain of an exchange, as a share of the error that the pruned weights would make without correlations:
less is rounding, and could go in circles."""


@register_solver("swaps", needs=["gram"], divided="rows")
def swaps(request: SolveRequest) -> Tensor:
    """Improve the mask of the scores row by row; counts and survivors stay as they are.

    With d the pruned weights of a row in their columns, H the damped Gram matrix and c = H d, the row's error is
    d^T H d. To prune p and keep q instead changes it by
    2 w_p c_p + w_p^2 H_pp - 2 w_q c_q + w_q^2 H_qq - 2 w_p w_q H_pq.
    """
    weight, options = request.weight, request.recipe.swaps
    kept = request.mask()
    correlation, norm = damped_correlation(request.statistics, request.recipe.damping)
    for rows in row_tiles(weight):
        value = weight[rows].to(torch.float32)
        value = value / value.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        _improve(value * norm, kept[rows], correlation, options)
    weight.masked_fill_(~kept, 0)
    return trim_kernels.pack_bits(kept)


def _improve(value: Tensor, kept: Tensor, correlation: Tensor, options: SwapsOptions) -> None:
    """Exchange in ``kept`` [T, C], in place; ``value`` [T, C]: weights times norms of their columns."""
    dropped = value.masked_fill(kept, 0)
    pull = dropped @ correlation
    tolerance = TOLERANCE * dropped.square().sum(dim=1)
    rows = torch.arange(value.shape[0], device=value.device)
    for _ in range(options.rounds):
        values, masks, pulls = value[rows], kept[rows], pull[rows]
        columns, before, after = _exchange(values, masks, pulls, correlation, tolerance[rows], options.shortlist)
        change = values.gather(1, columns) * (before.to(torch.float32) - after.to(torch.float32))
        pull[rows] = pulls + embedding_bag(columns, correlation, per_sample_weights=change, mode="sum")
        moved = before != after
        # A column may stand twice in a shortlist, but moves only once.
        flips = torch.zeros_like(masks, dtype=torch.uint8).scatter_add_(1, columns, moved.to(torch.uint8))
        kept[rows] = masks ^ flips.to(torch.bool)
        rows = rows[moved.any(dim=1)]
        if not len(rows):
            break


def _exchange(
    value: Tensor, kept: Tensor, pull: Tensor, correlation: Tensor, tolerance: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best exchanges among the ``size`` kept and ``size`` pruned weights of a row that are the cheapest to flip.

    Returns:
        columns int64 [T, S], and whether each was and is kept, bool [T, S].
    """
    size = min(size, value.shape[1])
    flip = value * (value + 2 * torch.where(kept, pull, -pull))
    leave, enter = (least(flip.masked_fill(mask, torch.inf), size) for mask in (~kept, kept))
    columns = torch.cat([leave, enter], dim=1)
    before = kept.gather(1, columns)
    # Where fewer than `size` are kept, or pruned, the list holds others too; they must not be taken.
    usable = torch.cat([before[:, :size], ~before[:, size:]], dim=1)
    chosen = value.gather(1, columns)
    square, product = chosen.square(), chosen * pull.gather(1, columns)
    pair = correlation[columns[:, :, None], columns[:, None, :]] * chosen[:, :, None] * chosen[:, None, :]
    after, row = before.clone(), torch.arange(value.shape[0], device=value.device)
    for _ in range(EXCHANGES):
        flip = square + 2 * torch.where(after, product, -product)
        leaving, entering = (flip.masked_fill(~(usable & mask), torch.inf) for mask in (after, ~after))
        change, place = (leaving[:, :, None] + entering[:, None, :] - 2 * pair).flatten(1).min(dim=1)
        better = change < -tolerance
        out, into = place // columns.shape[1], place % columns.shape[1]
        product += (pair[row, out] - pair[row, into]) * better[:, None]
        after[row, out] ^= better
        after[row, into] ^= better
    return columns, before, after


def least(values: Tensor, size: int) -> Tensor:
    """The columns [T, size] of the least of ``values`` [T, C].

    They lie in the ``size`` groups whose minima are the least: one pass over all of them in place of a selection.
    """
    columns = values.shape[1]
    members = next(count for count in range(max(1, math.isqrt(columns // size)), 0, -1) if columns % count == 0)
    # Column c belongs to group c mod G, so that the groups are compared side by side as they lie in memory.
    groups = columns // members
    minima = values.reshape(-1, members, groups).amin(dim=1)
    nearest = minima.topk(size, dim=1, largest=False).indices
    first = torch.arange(0, columns, groups, device=values.device)
    candidates = (first[:, None] + nearest[:, None, :]).flatten(1)
    places = values.gather(1, candidates).topk(size, dim=1, largest=False).indices
    return candidates.gather(1, places)
