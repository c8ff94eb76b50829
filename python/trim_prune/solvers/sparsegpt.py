"""SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): survivors make up for what is pruned, column by column."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels

from ..pattern import Keep
from .base import SolveRequest, register_solver
from .gram import conjugate_gradients, damped_correlation
from .mask import mask

BLOCK = 128
"""Columns whose weights are chosen together, as published."""
PANEL = 8 * BLOCK
"""Columns right of so many are updated, and read, once for all of them, unless weights are chosen among them before."""


@register_solver("sparsegpt", needs=["gram"], patterns=True, divided="rows")
def sparsegpt(request: SolveRequest) -> Tensor:
    """Optimal-brain-surgeon updates: with U^T U the inverse of the damped Gram matrix, from the left to the right,

    e_ij = w_ij / U_jj where weight (i, j) goes, 0 elsewhere; w_ik -= e_ij U_jk for k > j.

    Which weights go is said by ``sparsegpt.mask``: ``fixed``, the lowest scores of each row, chosen before any update;
    ``inside``, chosen anew before each 128 columns, by w^2 / U_jj^2 of the updated weights of all columns not yet done;
    ``blocks``, as published: the same share of each 128 columns, by the same score, all rows together if they compete,
    else each by itself. With a pattern, ``inside`` and ``blocks`` choose anew before each group of columns. At the end
    ``sparsegpt.refine`` steps of conjugate gradients bring all survivors of a row nearer to the least squares.
    """
    factor = request.statistics.factor(request.recipe.damping).upper
    if factor is None:
        return mask(request)
    weight = request.weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if request.recipe.sparsegpt.mask == "fixed":
        kept = request.mask()
        trim_kernels.obs_update_(weight, kept, factor)
    elif request.pattern is not None:
        kept = _choose_in_groups(weight, factor, _scale(factor, request), request.pattern)
    else:
        kept = _choose_inside(weight, factor, _scale(factor, request), request)
    if request.recipe.sparsegpt.refine:
        weight = _refined(weight, kept, request)
    request.weight.copy_(weight)
    return trim_kernels.pack_bits(kept)


def _scale(factor: Tensor, request: SolveRequest) -> Tensor:
    """The column scale by which weights are chosen. Those of a column that was always zero change nothing: they go."""
    return factor.diagonal().reciprocal().masked_fill(request.statistics.gram.diagonal() == 0, 0)


def _choose_inside(weight: Tensor, factor: Tensor, scale: Tensor, request: SolveRequest) -> Tensor:
    kept = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    columns, blocks = weight.shape[1], request.recipe.sparsegpt.mask == "blocks"
    panel = PANEL if blocks else BLOCK
    errors = torch.empty(weight.shape[0], panel, device=weight.device)
    left = request.prune_count
    asked = left.sum() if request.rows_compete else left
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        rest, counts = weight[:, first:], left
        if blocks:
            rest, counts = weight[:, first:last], _share(asked, last, columns) - _share(asked, first, columns)
        these = scale[first : first + rest.shape[1]]
        if request.rows_compete:
            # All rows as one: scores in row-major order.
            every = (rest.abs() * these).view(1, -1)
            chosen = trim_kernels.row_mask(every, int(counts.sum())).view(rest.shape)
        else:
            chosen = trim_kernels.row_mask(rest, counts, column_scale=these)
        kept[:, first:last] = chosen[:, : last - first]
        left = left - (~kept[:, first:last]).sum(dim=1, dtype=torch.int32)
        found = trim_kernels.obs_update_(weight[:, first:last], kept[:, first:last], factor[first:last, first:last])
        begin = first // panel * panel
        end = min(begin + panel, columns)
        weight[:, last:end].addmm_(found, factor[first:last, last:end], alpha=-1)
        errors[:, first - begin : last - begin] = found
        if last == end:
            weight[:, end:].addmm_(errors[:, : end - begin], factor[begin:end, end:], alpha=-1)
    return kept


def _choose_in_groups(weight: Tensor, factor: Tensor, scale: Tensor, pattern: Keep) -> Tensor:
    """Columns to the right of a block of groups are updated once for all of it."""
    kept = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    columns, width = weight.shape[1], max(1, BLOCK // pattern.of) * pattern.of
    for block in range(0, columns, width):
        last = min(block + width, columns)
        errors = torch.empty(weight.shape[0], last - block, device=weight.device)
        for first in range(block, last, pattern.of):
            group, rest = slice(first, min(first + pattern.of, last)), slice(first + pattern.of, last)
            kept[:, group] = trim_kernels.nm_mask(weight[:, group], *pattern, column_scale=scale[group])
            found = trim_kernels.obs_update_(weight[:, group], kept[:, group], factor[group, group])
            weight[:, rest].addmm_(found, factor[group, rest], alpha=-1)
            errors[:, group.start - block : group.stop - block] = found
        weight[:, last:].addmm_(errors, factor[block:last, last:], alpha=-1)
    return kept


def _refined(weight: Tensor, kept: Tensor, request: SolveRequest) -> Tensor:
    """Survivors nearer to those that minimise the output error, with the damping of the factor."""
    statistics, damping = request.statistics, request.recipe.damping
    correlation, norm = damped_correlation(statistics, damping, statistics.factor(damping))
    residual = ((request.weight.to(torch.float32) - weight) * norm) @ correlation
    steps = request.recipe.sparsegpt.refine
    refined = conjugate_gradients(weight * norm, residual, correlation, kept, steps) / norm
    return torch.where(norm > 0, refined, weight)


def _share(counts: Tensor, column: int, columns: int) -> Tensor:
    """How many of ``counts`` weights go in the columns before this one, if every column loses the same share."""
    return (counts.to(torch.float64) * column / columns).round().to(torch.int32)
