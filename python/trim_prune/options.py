"""The options of single methods: one group each, named as the method that reads it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator

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


def _batch_size(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("Input should be auto, or a whole number of at least 1")


BatchSize = Annotated[int | Literal["auto"], PlainValidator(_batch_size)]
"""Sequences in one forward; auto: as many as the free memory allows, see ``estimate.batch``."""


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


class OwlOptions(Strict):
    """Options of OWL layers; defaults of its README for a sparsity of 70 %.

    ``lamda`` (spelled as in OWL's own ``--Lamda``; ``lambda`` is a word of Python): half the range of the keep ratios.
    ``m``: an outlier's score is above ``m`` times the mean of its block.
    """

    lamda: Real = Field(default=0.08, ge=0, le=0.5)
    m: Real = Field(default=5.0, gt=0)


class AlphaPruningOptions(Strict):
    """Options of AlphaPruning layers. ``epsilon``: sparsities are in proportion to 1 - epsilon ... 1 + epsilon."""

    epsilon: Real = Field(default=0.3, ge=0, le=1)


class DlpOptions(Strict):
    """Options of DLP layers. ``alpha``: half the range of the keep ratios."""

    alpha: Real = Field(default=0.15, ge=0, le=0.5)


class MspOptions(Strict):
    """Options of MSP layers.

    ``unit``: what keeps one share, a block or each linear. ``sensitivity``: the Fisher trace of a unit, the same
    weighted by the squared weights, or none: levels at random. ``scale``: how sensitivities become first levels, by
    rank or by logarithm. ``sequences``: so many calibration sequences measure them. ``score``: what ranks the weights
    in the search; None: the recipe's score, or wanda in place of obs, whose solver changes the weights that it ranks.

    ``reach``: how many levels a unit may be from the mean, of a pattern or of ``step`` in sparsity without one.
    ``fitness``: the divergence from the dense model's predictions, or perplexity. ``stages``: tokens that judge a
    candidate; the better ones of each stage go on to the next. ``population``: candidates of the first generation;
    ``offspring``: of each later one; ``parents``: the best so far, which have them. ``rounds``: so many evolutions,
    each by the masks that the best vector before it gets; ``generations``: of each at most, after its first;
    ``patience``: generations without a better vector before it ends.
    """

    unit: Literal["block", "linear"] = "block"
    sensitivity: Literal["fisher", "weighted", "none"] = "fisher"
    scale: Literal["rank", "log"] = "rank"
    sequences: Whole = Field(default=32, ge=1)
    score: str | None = None
    reach: Whole = Field(default=2, ge=1, le=32)
    step: Real = Field(default=0.05, gt=0, le=0.5)
    fitness: Literal["kl", "perplexity"] = "kl"
    stages: tuple[Annotated[Whole, Field(ge=2)], ...] = Field(default=(512, 2048, 8192), min_length=1)
    population: Whole = Field(default=24, ge=1)
    offspring: Whole = Field(default=16, ge=1)
    parents: Whole = Field(default=8, ge=1)
    rounds: Whole = Field(default=3, ge=1)
    generations: Whole = Field(default=5, ge=0)
    patience: Whole = Field(default=3, ge=1)

    @field_validator("stages")
    @classmethod
    def _grow(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("every stage judges by more tokens than the one before")
        return value


class TableRule(Strict):
    """One rule of table layers: the sparsity of the linears whose module names match a pattern.

    ``match``: as in a shell, case counts, and ``*`` passes over dots: ``*.mlp.down_proj``, ``model.layers.[01].*``.
    """

    match: str = Field(min_length=1)
    sparsity: Real = Field(ge=0, le=1)


class SwapsOptions(Strict):
    """Options of the solver swaps.

    ``rounds``: at most so many shortlists of a row. ``shortlist``: kept, and pruned, weights in each.
    """

    rounds: Whole = Field(default=100, ge=1)
    shortlist: Whole = Field(default=8, ge=1)


class AlpsOptions(Strict):
    """Options of the solver alps.

    ``support``: the mask of the scores (``score``), or found by ADMM (``rows``) with the counts of the row budget, of
    the groups of a pattern, or, where rows compete, of the whole.
    ``iterations``: at most so many steps of ADMM. ``rho``: its first penalty. ``cg_steps``: conjugate gradients.
    """

    support: Literal["score", "rows"] = "rows"
    iterations: Whole = Field(default=300, ge=1)
    rho: Real = Field(default=0.3, gt=0)
    cg_steps: Whole = Field(default=10, ge=0)


class OptimalOptions(Strict):
    """Options of optimal rows.

    ``sequences``: so many calibration sequences measure how the loss answers to each output, by which the error of its
    row counts; 0: all rows count the same. ``spread``: how far the sparsity of a row may be from that of its linear;
    None: 0.12, or less for few tokens. ``leave_out``: linears that keep uniform rows, by patterns over module names as
    in a table. Where all rows count the same, queries and keys are better left out, ``["*.q_proj", "*.k_proj"]``: they
    meet in products, so the error of their outputs is not what they cost.
    """

    sequences: Whole = Field(default=8, ge=0)
    spread: Annotated[Real, Field(gt=0, le=1)] | None = None
    leave_out: tuple[str, ...] = ()


class SparseGPTOptions(Strict):
    """Options of the solver sparsegpt.

    ``mask``: when the weights that go are chosen; see the solver. ``refine``: steps of conjugate gradients at the end.
    """

    mask: Literal["fixed", "inside", "blocks"] = "fixed"
    refine: Whole = Field(default=0, ge=0)
