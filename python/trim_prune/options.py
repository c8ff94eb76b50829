"""The options of single methods: one group each, named as the method that reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LayerMetric = Literal[
    "cosine",
    "cosine_rows",
    "cosine_tokens",
    "mse",
    "mse_rows",
    "mae",
    "snr",
    "psnr",
    "psnr_rows",
    "psnr_tokens",
]
RowMetric = Literal["cosine", "mse", "psnr"]

# Strict: no bool passes for a number (`sparsity: true` is not 1.0).
Real = Annotated[float, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]


class Strict(BaseModel):
    """No unknown key, no infinity, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RiaOptions(Strict):
    """Options of the score RIA. ``a``: the power of the column norm; 0 leaves the inputs out of it."""

    a: Real = Field(default=0.5, ge=0)


class TrimOptions(Strict):
    """Options of the TRIM row search; see ``trim_kernels.allocate_rows``."""

    layer_metric: LayerMetric = "cosine"
    row_metric: RowMetric = "cosine"
    learning_rates: tuple[Annotated[Real, Field(gt=0)], ...] = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16)
    negative_learning_rates: tuple[Annotated[Real, Field(lt=0)], ...] = (-0.01, -0.02, -0.04)
    iterations: Whole = Field(default=10, ge=1)
    max_sparsity: Real = Field(default=0.95, gt=0, le=1)
    rounding: Literal["exact", "floor"] = "exact"
