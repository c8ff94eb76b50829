"""How much of a layer's output survives, and the search that asks it again and again."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.baselines.trim_paper import NEGATIVE, POSITIVE, trim_paper
from benchmarks.cases.case import Case
from benchmarks.cases.checks import close_statistics, same_counts, same_total_and_quality
from benchmarks.cases.rows import sort_and_scatter
from benchmarks.problems import SPARSITY, Layer
from trim_kernels import RowBudget

EVALUATIONS = 1 + 10 * len(POSITIVE + NEGATIVE)
"""Of a search that takes all steps of all learning rates at once."""


def _product(weight: Tensor, inputs: Tensor) -> Tensor:
    """In float64; on a GPU multiplied by tensor cores, if the dtype allows it, and accumulated in float32."""
    if weight.is_cuda and weight.dtype == inputs.dtype != torch.float32:
        return torch.mm(weight, inputs, out_dtype=torch.float32).double()
    return (weight.float() @ inputs.float()).double()


def _masked_products(layer: Layer) -> tuple[Tensor, ...]:
    dense = _product(layer.weight, layer.inputs)
    dropped = dense - _product(layer.weight * sort_and_scatter(layer), layer.inputs)
    return dense.square().sum(1), dropped.square().sum(1), (dense * dropped).sum(1), dense.square().amax(1)


def _quality(layer: Layer, backend: str) -> tuple[Tensor, ...]:
    quality = trim_kernels.row_quality(
        layer.weight,
        layer.prune_count,
        layer.inputs,
        column_scale=layer.column_scale,
        check_values=layer.check_values,
        backend=backend,
    )
    return quality.dense_sq, quality.dropped_sq, quality.cross, quality.peak


def _paper(layer: Layer) -> Tensor:
    return trim_paper(layer.weight, layer.inputs.float(), SPARSITY, layer.column_scale).prune_count


def _allocate(layer: Layer, backend: str, rounding: str) -> RowBudget:
    return trim_kernels.allocate_rows(
        layer.weight, layer.inputs, SPARSITY, column_scale=layer.column_scale, rounding=rounding, backend=backend
    )


def _search_operations(layer: Layer) -> float:
    """On a GPU every evaluation is a product; on a CPU it pays to follow what a step changes."""
    return layer.product() * (EVALUATIONS if layer.weight.is_cuda else 1)


def _quality_operations(layer: Layer) -> float:
    """A weight counts in what is left or in what went, never in both; but tensor cores multiply zeros too."""
    return layer.product() * (2 if layer.weight.is_cuda else 1)


ROW_QUALITY = Case(
    "row_quality",
    "",
    Layer.make,
    _quality,
    close_statistics,
    bytes_moved=Layer.weight_bytes,
    operations=_quality_operations,
    baseline=_masked_products,
    baseline_name="sort, mask, two products, float64 metrics",
)
ALLOCATE_ROWS = Case(
    "allocate_rows",
    "floor",
    Layer.make,
    lambda layer, backend: _allocate(layer, backend, "floor"),
    same_counts,
    bytes_moved=Layer.weight_bytes,
    operations=_search_operations,
    baseline=_paper,
    baseline_name="the paper's formulation, benchmarks/baselines/trim_paper.py",
    waits=True,
)
ALLOCATE_ROWS_EXACT = Case(
    "allocate_rows",
    "exact",
    Layer.make,
    lambda layer, backend: _allocate(layer, backend, "exact"),
    same_total_and_quality,
    bytes_moved=Layer.weight_bytes,
    operations=_search_operations,
    waits=True,
)
