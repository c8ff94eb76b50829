"""row_quality in Triton: a dense product, then one over the weights that go; neither mask nor pruned weight exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.checks import require_counts_in_range
from trim_kernels.ops.row_threshold.triton import thresholds
from trim_kernels.scoring import overflow, require_finite, require_finite_tensor
from trim_kernels.triton_common import refusal as refusal


class Tile(NamedTuple):
    """What one program works on, and with what."""

    rows: int
    tokens: int
    columns: int
    warps: int
    stages: int


FLOAT32_TILE = Tile(32, 128, 32, 4, 2)
"""On Blackwell, Triton 3.6 multiplies larger tiles of float32 in TF32, whatever precision is asked for."""
_INTERPRETED_TILE = Tile(32, 32, 128, 1, 1)
STRETCH = 4096
"""Columns that tensor cores add up alone, in rows of more than twice as many: of these, they would cut off 3e-5."""


def native_tile(capability: tuple[int, int], tokens: int, *, stretches: bool = False) -> Tile:
    """The tile for half precision on tensor cores; ``stretches``: sums are kept twice, of a stretch and in all."""
    if capability[0] in (9, 10):
        # Each weight is masked once for all tokens of a tile: the more, the better, up to what registers hold.
        return Tile(128, 256 if tokens > 128 and not stretches else 128, 64, 8, 3)
    # 99 KB of shared memory on all other architectures, but for the A100.
    return Tile(128, 128, 32, 8, 3)


@dataclass(frozen=True)
class Products:
    """The dense output of a matrix, and the statistics of what any thresholds drop from it."""

    weight: Tensor
    inputs: Tensor
    column_scale: Tensor | None
    score: Tensor | None
    output: Tensor
    """float32 [R, N]"""
    dense_sq: Tensor
    peak: Tensor

    @staticmethod
    def of(weight: Tensor, inputs: Tensor, column_scale: Tensor | None, score: Tensor | None) -> Products:
        output = torch.empty((weight.shape[0], inputs.shape[1]), dtype=torch.float32, device=weight.device)
        square, largest = _statistics(weight, inputs, column_scale, score, output)
        dense_sq = square.sum(dim=1).squeeze(0)
        peak = largest.amax(dim=1).squeeze(0).square()
        return Products(weight, inputs, column_scale, score, output, dense_sq, peak)

    def dropped(self, key: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """(dropped_sq, cross), float64 [chains, R], of thresholds int32 [chains, R]; does not wait for the device."""
        square, cross = _statistics(
            self.weight, self.inputs, self.column_scale, self.score, self.output, key.contiguous(), column.contiguous()
        )
        return square.sum(dim=1), cross.sum(dim=1)


def row_quality(
    weight: Tensor,
    prune_count: Tensor,
    inputs: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    key, column = thresholds(weight, prune_count, column_scale, score, check_values=False)
    products = Products.of(weight, inputs, column_scale, score)
    dropped_sq, cross = (statistic.squeeze(0) for statistic in products.dropped(key[None], column[None]))
    if check_values:
        require_values(products, dropped_sq)
        require_finite(weight, column_scale, score)
        require_counts_in_range(prune_count, weight.shape[1])
    return products.dense_sq, dropped_sq, cross, products.peak


def require_values(products: Products, *dropped_sq: Tensor) -> None:
    """Raise ValueError for outputs that are not finite: for bad inputs or weights, or an overflow."""
    if products.output.numel() and all(bool(torch.isfinite(s).all()) for s in (products.dense_sq, *dropped_sq)):
        return
    require_finite_tensor("inputs", products.inputs)
    require_finite(products.weight, products.column_scale, products.score)
    if products.output.numel():
        raise ValueError(overflow())


def _statistics(
    weight: Tensor,
    inputs: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    output: Tensor,
    key: Tensor | None = None,
    column: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The two statistics of ``product_statistics`` float64 [chains, token tiles, R]; dense without thresholds."""
    from trim_kernels.ops.row_quality.triton_kernels import product_statistics

    (rows, width), tokens = weight.shape, inputs.shape[1]
    native = weight.dtype == inputs.dtype != torch.float32 and not common.interpreted()
    stretch = STRETCH if native and width > 2 * STRETCH else 0
    tile = _tile(weight.device, native, tokens, stretches=stretch > 0)
    chains = 1 if key is None else key.shape[0]
    token_tiles = common.cdiv(tokens, tile.tokens)
    square = torch.empty((chains, token_tiles, rows), dtype=torch.float64, device=weight.device)
    other = torch.empty_like(square)
    if rows and chains:
        with common.on_device(weight):
            product_statistics[(common.cdiv(rows, tile.rows) * token_tiles * chains,)](
                inputs=common.as_bits(inputs),
                threshold_key=square if key is None else key,
                threshold_column=square if column is None else column,
                dense=output,
                square=square,
                other=other,
                rows=rows,
                width=width,
                tokens=tokens,
                chains=chains,
                inputs_row=inputs.stride(0),
                inputs_column=inputs.stride(1),
                DROPPED=key is not None,
                NATIVE=native,
                STRETCH=stretch,
                BLOCK_ROWS=tile.rows,
                BLOCK_TOKENS=tile.tokens,
                BLOCK_COLUMNS=tile.columns,
                num_warps=tile.warps,
                num_stages=tile.stages,
                **common.scoring_arguments(weight, column_scale, score),
            )
    return square, other


def _tile(device: torch.device, native: bool, tokens: int, *, stretches: bool) -> Tile:
    if common.interpreted():
        return _INTERPRETED_TILE
    if not native:
        return FLOAT32_TILE
    return native_tile(torch.cuda.get_device_capability(device), tokens, stretches=stretches)
