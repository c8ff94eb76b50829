"""What each row loses as more of its weights go."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.case import Case
from benchmarks.cases.checks import close_sums, roughly_close_sums
from benchmarks.problems import Band


def _curve(band: Band, backend: str) -> Tensor:
    return trim_kernels.row_error_curve(
        band.weight,
        band.gram,
        band.first_count,
        band.last_count,
        column_scale=band.column_scale,
        check_values=band.check_values,
        backend=backend,
    )


def _product_and_gathered_bands(band: Band) -> Tensor:
    """One product for what goes before the first count, then each row on its own part of the Gram matrix."""
    weight = band.weight.float()
    order = (weight.abs() * band.column_scale).sort(dim=1, stable=True).indices
    before, between = order[:, : band.first_count], order[:, band.first_count : band.last_count]
    gone = torch.zeros_like(weight).scatter_(1, before, weight.gather(1, before))
    products = gone @ band.gram
    # One tensor for all: small ones kept between the large ones of each row would leave the allocator holes.
    curves = weight.new_empty(len(weight), between.shape[1] + 1)
    for row, columns in enumerate(between):
        going = weight[row, columns]
        pairs = band.gram[columns][:, columns]
        growth = going * (2 * (products[row, columns] + pairs.tril(-1) @ going) + going * pairs.diagonal())
        curves[row] = torch.cat([gone[row] @ products[row][:, None], growth]).double().cumsum(0)
    return curves


ROW_ERROR_CURVE = Case(
    "row_error_curve",
    "",
    Band.make,
    _curve,
    close_sums,
    bytes_moved=Band.bytes_moved,
    operations=Band.operations,
    baseline=_product_and_gathered_bands,
    baseline_name="torch.mm, then the band's Gram matrix of each row",
    baseline_check=roughly_close_sums,
)
