"""How many weights each row of a matrix loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trim_kernels.checks import check_inputs, check_scoring, check_weight
from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS, layer_metric_names
from trim_kernels.ops.allocate_rows.rounding import ROUNDINGS, ExactRounding

METHODS = ("trim",)


@dataclass(frozen=True)
class Trial:
    """One learning rate of the search."""

    learning_rate: float
    quality: tuple[float, ...]
    """Layer quality after 0 (uniform), 1, 2 ... steps."""


@dataclass(frozen=True)
class RowBudget:
    """The prune counts of one matrix, and how they were found."""

    prune_count: Tensor
    """int32 [R]"""
    sparsity: float
    """Share of the matrix's weights that go."""
    quality: float
    """Layer quality of the best candidate."""
    baseline_quality: float
    """Layer quality when every row loses the same share."""
    learning_rate: float | None
    """The rate that found the budget; None when nothing beat the uniform one."""
    iteration: int
    """The step, from 1, that found it; 0 for the uniform budget."""
    trace: tuple[Trial, ...]
    """What was tried, in order."""


def allocate_rows(
    weight: Tensor,
    inputs: Tensor,
    sparsity: float,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    backend: str = "auto",
    method: str = "trim",
    learning_rates: Sequence[float] = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16),
    negative_learning_rates: Sequence[float] = (-0.01, -0.02, -0.04),
    iterations: int = 10,
    max_sparsity: float = 0.95,
    layer_metric: str = "cosine",
    row_metric: str = "cosine",
    rounding: str = "exact",
) -> RowBudget:
    """Spread the weights that a matrix must lose over its rows so that its output keeps the most quality.

    TRIM (arXiv 2505.16743): from equal shares S, repeat ``S += 2 rate (d - mean d)`` with d the row qualities scaled to
    [0, 1], clip, restore the mean, and keep the best S by layer quality. Never worse than equal shares by that measure.

    Args:
        weight, column_scale, score, backend: as in :func:`trim_kernels.row_threshold`.
        inputs: [C, N], the tokens on which outputs are compared; float32 (or bfloat16 or float16).
        sparsity: share of all weights that go, 0 to 1.
        method: "trim".
        learning_rates: tried in order until one is no better than the one before it.
        negative_learning_rates: the same, if no positive one beat equal shares; () forbids them.
        iterations: steps per rate.
        max_sparsity: the most that one row may lose.
        layer_metric: "cosine", "cosine_rows", "cosine_tokens", "mse", "mse_rows", "mae", "snr", "psnr", "psnr_rows" or
            "psnr_tokens"; higher is better, errors are negated.
        row_metric: "cosine", "mse" or "psnr".
        rounding: "exact" removes ``round(sparsity * R * C)`` weights and at most ``max_sparsity * C`` of a row;
            "floor" repeats the arithmetic of TRIM's code: the counts are truncated, so a little less goes, and the
            shares are recentred once more at the end (``quality`` is that of the candidate before). On matrices of
            tens of thousands of columns its feedback enlarges the last bits of float32 sums, so that counts may differ
            by more than 1 between backends, as they do between plain torch and plain torch with permuted columns.

    Raises:
        ValueError: as :func:`trim_kernels.row_threshold`; an unknown name; a sparsity that the cap makes impossible;
            outputs beyond float32.
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    check_inputs(weight, inputs)
    _check_name("method", method, METHODS)
    _check_name("layer_metric", layer_metric, layer_metric_names())
    _check_name("row_metric", row_metric, list(ROW_METRICS))
    _check_name("rounding", rounding, list(ROUNDINGS))
    _check_numbers(sparsity, learning_rates, negative_learning_rates, iterations, max_sparsity)
    rows, columns = weight.shape
    if rounding == "exact":
        ExactRounding(rows, columns, sparsity, max_sparsity, weight.device)
    if rows == 0:
        empty = torch.zeros(0, dtype=torch.int32, device=weight.device)
        return RowBudget(empty, 0.0, 0.0, 0.0, None, 0, ())
    prune_count, trace = torch.ops.trim_kernels.allocate_rows(
        weight,
        inputs,
        sparsity,
        column_scale,
        score,
        list(learning_rates),
        list(negative_learning_rates),
        iterations,
        max_sparsity,
        layer_metric,
        row_metric,
        rounding,
        backend,
    )
    return _read(prune_count, columns, trace, (*learning_rates, *negative_learning_rates))


def _read(prune_count: Tensor, columns: int, trace: Tensor, rates: Sequence[float]) -> RowBudget:
    """Say in words what the operator's two tensors hold."""
    baseline = float(trace[0, 0])
    trials = tuple(
        Trial(rate, tuple(row.tolist())) for rate, row in zip(rates, trace[1:], strict=True) if not math.isnan(row[0])
    )
    quality, learning_rate, iteration = baseline, None, 0
    for trial in trials:
        best = max(trial.quality)
        if best > quality:
            quality, learning_rate, iteration = best, trial.learning_rate, trial.quality.index(best)
    sparsity = int(prune_count.sum()) / (prune_count.numel() * columns)
    return RowBudget(prune_count, sparsity, quality, baseline, learning_rate, iteration, trials)


def _check_name(argument: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{argument}: expected one of {', '.join(known)}, got {value!r}")


def _check_numbers(
    sparsity: float,
    learning_rates: Sequence[float],
    negative_learning_rates: Sequence[float],
    iterations: int,
    max_sparsity: float,
) -> None:
    for name, value in (("sparsity", sparsity), ("max_sparsity", max_sparsity)):
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {value!r}")
    if not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations: expected a whole number, 0 or more, got {iterations!r}")
    if not all(0 < rate < math.inf for rate in learning_rates):
        raise ValueError(f"learning_rates: expected numbers > 0, got {tuple(learning_rates)!r}")
    if not all(-math.inf < rate < 0 for rate in negative_learning_rates):
        raise ValueError(f"negative_learning_rates: expected numbers < 0, got {tuple(negative_learning_rates)!r}")
