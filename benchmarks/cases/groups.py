"""Keep n of m: the same count in every group of columns."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.case import Case
from benchmarks.cases.checks import equal, equal_but_for_ties, equal_masks
from benchmarks.cases.rows import no_operations
from benchmarks.problems import Layer


def _topk_and_scatter(layer: Layer, keep: int, of: int) -> Tensor:
    """The keep mask, if the columns come in whole groups; among equal scores any may stay."""
    scores = (layer.weight.float().abs() * layer.column_scale).view(layer.weight.shape[0], -1, of)
    best = scores.topk(keep, dim=-1, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True).flatten(1)


def _argsort_of_argsort(layer: Layer, of: int) -> Tensor:
    """The ranks, if the columns come in whole groups."""
    scores = (layer.weight.float().abs() * layer.column_scale).view(layer.weight.shape[0], -1, of)
    order = torch.sort(scores, dim=-1, stable=True).indices
    return (of - 1 - order.argsort(dim=-1)).to(torch.uint8).flatten(1)


def _rank(layer: Layer, backend: str) -> Tensor:
    return trim_kernels.nm_rank(
        layer.weight, 8, column_scale=layer.column_scale, check_values=layer.check_values, backend=backend
    )


def _mask(layer: Layer, backend: str) -> Tensor:
    return trim_kernels.nm_mask(
        layer.weight,
        2,
        4,
        column_scale=layer.column_scale,
        packed=True,
        check_values=layer.check_values,
        backend=backend,
    )


def _prune(layer: Layer, backend: str, keep: int, of: int) -> Tensor:
    return trim_kernels.prune_nm_(
        layer.weight, keep, of, column_scale=layer.column_scale, check_values=layer.check_values, backend=backend
    )


def _in_place(keep: int, of: int) -> Case[Layer]:
    return Case(
        "prune_nm_",
        f"{keep} of {of}",
        Layer.make,
        lambda layer, backend: _prune(layer, backend, keep, of),
        equal_masks,
        bytes_moved=lambda layer: 2 * layer.weight_bytes(),
        operations=no_operations,
        baseline=lambda layer: layer.weight.mul_(_topk_and_scatter(layer, keep, of)),
        baseline_name="torch.topk + scatter + multiply",
        baseline_check=equal_but_for_ties,
        in_place=True,
    )


NM_RANK = Case(
    "nm_rank",
    "of 8",
    Layer.make,
    _rank,
    equal,
    bytes_moved=lambda layer: layer.weight_bytes() + layer.weight.numel(),
    operations=no_operations,
    baseline=lambda layer: _argsort_of_argsort(layer, 8),
    baseline_name="torch.sort twice",
)
NM_MASK = Case(
    "nm_mask",
    "2 of 4 packed",
    Layer.make,
    _mask,
    equal_masks,
    bytes_moved=lambda layer: layer.weight_bytes() + layer.weight.numel() / 8,
    operations=no_operations,
    baseline=lambda layer: _topk_and_scatter(layer, 2, 4),
    baseline_name="torch.topk + scatter, unpacked",
    baseline_check=equal_but_for_ties,
)
PRUNE_2_OF_4 = _in_place(2, 4)
PRUNE_4_OF_8 = _in_place(4, 8)
