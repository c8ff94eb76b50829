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


class TrimOptions(Strict):
    """Options of the TRIM row search; see ``trim_kernels.allocate_rows``."""

    layer_metric: LayerMetric = "cosine"
    row_metric: RowMetric = "cosine"
    learning_rates: tuple[Annotated[Real, Field(gt=0)], ...] = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16)
    negative_learning_rates: tuple[Annotated[Real, Field(lt=0)], ...] = (-0.01, -0.02, -0.04)
    iterations: Whole = Field(default=10, ge=1)
    max_sparsity: Real = Field(default=0.95, gt=0, le=1)
    rounding: Literal["exact", "floor"] = "exact"


class SwapsOptions(Strict):
    """Options of the solver swaps.

    ``damping``: added to the diagonal of the Gram matrix, as a share of each entry; None: 2 * columns / tokens.
    ``rounds``: at most so many shortlists of a row. ``shortlist``: kept, and pruned, weights in each.
    """

    damping: Annotated[Real, Field(ge=0)] | None = None
    rounds: Whole = Field(default=100, ge=1)
    shortlist: Whole = Field(default=8, ge=1)


class AlpsOptions(Strict):
    """Options of the solver alps.

    ``support``: the mask of the scores (``score``), or found by ADMM with the counts of the row budget (``rows``).
    ``damping``: added to the diagonal of the Gram matrix, as a share of each entry; None: 2 * columns / tokens.
    ``iterations``: at most so many steps of ADMM. ``rho``: its first penalty. ``cg_steps``: conjugate gradients.
    """

    support: Literal["score", "rows"] = "rows"
    damping: Annotated[Real, Field(ge=0)] | None = None
    iterations: Whole = Field(default=300, ge=1)
    rho: Real = Field(default=0.3, gt=0)
    cg_steps: Whole = Field(default=10, ge=0)
