"""Selection with a different count in every row."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.case import Case
from benchmarks.cases.checks import equal, equal_but_for_ties, equal_masks
from benchmarks.problems import Layer, Pool, Problem


def sort(layer: Layer) -> tuple[Tensor, Tensor]:
    """Scores and columns in pruning order."""
    scores, order = torch.sort(layer.weight.float().abs() * layer.column_scale, dim=1, stable=True)
    return scores, order


def sort_and_scatter(layer: Layer) -> Tensor:
    """The keep mask."""
    _, order = sort(layer)
    position = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, position >= layer.prune_count.unsqueeze(1))


def _sort_and_gather(layer: Layer) -> tuple[Tensor, Tensor]:
    scores, order = sort(layer)
    place = layer.prune_count.long().unsqueeze(1)
    return scores.gather(1, place).squeeze(1).view(torch.int32), order.gather(1, place).squeeze(1).int()


def _threshold(layer: Layer, backend: str) -> tuple[Tensor, Tensor]:
    found = trim_kernels.row_threshold(
        layer.weight,
        layer.prune_count,
        column_scale=layer.column_scale,
        check_values=layer.check_values,
        backend=backend,
    )
    return found.key, found.column


def _mask(layer: Layer, backend: str, *, packed: bool) -> Tensor:
    return trim_kernels.row_mask(
        layer.weight,
        layer.prune_count,
        column_scale=layer.column_scale,
        packed=packed,
        check_values=layer.check_values,
        backend=backend,
    )


def _mask_of_all(pool: Pool, backend: str) -> Tensor:
    return trim_kernels.row_mask(pool.score, pool.prune_count, check_values=pool.check_values, backend=backend)


def _sort_all(pool: Pool) -> Tensor:
    scores = pool.score.flatten().sort().values
    return pool.score >= scores[pool.prune_count.long()]


def _prune(layer: Layer, backend: str) -> Tensor:
    return trim_kernels.prune_rows_(
        layer.weight,
        layer.prune_count,
        column_scale=layer.column_scale,
        check_values=layer.check_values,
        backend=backend,
    )


def _order(layer: Layer, backend: str) -> Tensor:
    return trim_kernels.row_order(
        layer.weight, column_scale=layer.column_scale, check_values=layer.check_values, backend=backend
    )


def no_operations(_: Problem) -> float:
    """Moving bytes is all there is."""
    return 0.0


ROW_THRESHOLD = Case(
    "row_threshold",
    "",
    Layer.make,
    _threshold,
    equal,
    bytes_moved=lambda layer: layer.weight_bytes() + 8 * layer.weight.shape[0],
    operations=no_operations,
    baseline=_sort_and_gather,
    baseline_name="torch.sort + gather",
)
ROW_MASK_PACKED = Case(
    "row_mask",
    "packed",
    Layer.make,
    lambda layer, backend: _mask(layer, backend, packed=True),
    equal_masks,
    bytes_moved=lambda layer: layer.weight_bytes() + layer.weight.numel() / 8,
    operations=no_operations,
    baseline=sort_and_scatter,
    baseline_name="torch.sort + scatter, unpacked",
)
ROW_MASK = Case(
    "row_mask",
    "bool",
    Layer.make,
    lambda layer, backend: _mask(layer, backend, packed=False),
    equal_masks,
    bytes_moved=lambda layer: layer.weight_bytes() + layer.weight.numel(),
    operations=no_operations,
    baseline=sort_and_scatter,
    baseline_name="torch.sort + scatter",
)
ROW_MASK_OF_ALL = Case(
    "row_mask",
    "all as one row",
    Pool.make,
    _mask_of_all,
    equal_masks,
    bytes_moved=lambda pool: pool.score.nbytes + pool.score.numel(),
    operations=no_operations,
    baseline=_sort_all,
    baseline_name="torch.sort of all",
    baseline_check=equal_but_for_ties,
)
PRUNE_ROWS = Case(
    "prune_rows_",
    "",
    Layer.make,
    _prune,
    equal,
    bytes_moved=lambda layer: 2 * layer.weight_bytes(),
    operations=no_operations,
    baseline=lambda layer: layer.weight.mul_(sort_and_scatter(layer)),
    baseline_name="torch.sort + scatter + multiply",
    in_place=True,
)
ROW_ORDER = Case(
    "row_order",
    "",
    Layer.make,
    _order,
    equal,
    bytes_moved=lambda layer: layer.weight_bytes() + 4.0 * layer.weight.numel(),
    operations=no_operations,
    baseline=lambda layer: sort(layer)[1].int(),
    baseline_name="torch.sort",
)
