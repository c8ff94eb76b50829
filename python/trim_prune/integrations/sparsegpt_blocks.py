"""SparseGPT as its published script and those that follow it choose weights, with our kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import trim_kernels
from trim_kernels.precision import full_float32


def as_matrix(layer: Any) -> Tensor:
    """The weight of a linear, a convolution or transformers' Conv1D as float32 [R, C], in memory of its own."""
    weight: Tensor = layer.weight.data
    flat = weight.t() if _is_transposed(layer) else weight.flatten(1)
    return flat.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def as_weight(matrix: Tensor, layer: Any) -> Tensor:
    """The matrix in the shape and type of the layer's weight."""
    weight: Tensor = layer.weight
    return (matrix.t() if _is_transposed(layer) else matrix).reshape(weight.shape).to(weight.dtype)


def prune_blocks(
    weight: Tensor, hessian: Tensor, sparsity: float, prune_n: int, prune_m: int, blocksize: int, percdamp: float
) -> float:
    """Prune a float32 weight [R, C] in place; the Hessian [C, C] is changed. Returns half the sum of squared errors.

    In each block of columns what scores no more than the ``int(weights * sparsity)``-th lowest (from 0) of
    ``w^2 / U_jj^2`` goes, of equal scores the first; with ``prune_n`` of ``prune_m``, that many of every group of
    columns, chosen from updated weights.

    Raises:
        ValueError: the damped Hessian is not positive definite.
    """
    with full_float32(weight.device):
        dead = hessian.diagonal() == 0
        hessian.diagonal()[dead] = 1
        weight[:, dead] = 0
        hessian.diagonal().add_(percdamp * hessian.diagonal().mean())
        factor = trim_kernels.inverse_factor(hessian)
        loss = 0.0
        for first in range(0, weight.shape[1], blocksize):
            block = slice(first, min(first + blocksize, weight.shape[1]))
            if prune_n:
                errors = _prune_groups(weight[:, block], factor[block, block], prune_n, prune_m)
            else:
                errors = _prune_block(weight[:, block], factor[block, block], sparsity)
            weight[:, block.stop :].addmm_(errors, factor[block, block.stop :], alpha=-1)
            loss += float(errors.square().sum()) / 2
    return loss


def _is_transposed(layer: Any) -> bool:
    return type(layer).__name__ == "Conv1D"


def _prune_block(weight: Tensor, factor: Tensor, sparsity: float) -> Tensor:
    """All rows compete."""
    scores = _scores(weight, factor).view(1, -1)
    count = min(int(scores.numel() * sparsity) + 1, scores.numel())
    kept = trim_kernels.row_mask(scores, count).view(weight.shape)
    return trim_kernels.obs_update_(weight, kept, factor)


def _prune_groups(weight: Tensor, factor: Tensor, prune_n: int, prune_m: int) -> Tensor:
    errors = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for first in range(0, weight.shape[1], prune_m):
        group, rest = slice(first, first + prune_m), slice(first + prune_m, None)
        scores = _scores(weight[:, group], factor[group, group])
        kept = trim_kernels.nm_mask(scores, prune_m - prune_n, prune_m)
        errors[:, group] = trim_kernels.obs_update_(weight[:, group], kept, factor[group, group])
        weight[:, rest].addmm_(errors[:, group], factor[group, rest], alpha=-1)
    return errors


def _scores(weight: Tensor, factor: Tensor) -> Tensor:
    return weight**2 / factor.diagonal() ** 2
