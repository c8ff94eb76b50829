"""TRIM's search for row budgets, independent of how a candidate is evaluated.

Source: TRIM (arXiv 2505.16743), section 1.2 of whose formulas this follows, and its authors' early-stopping rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trim_kernels.ops.allocate_rows.rounding import Rounding

Evaluate = Callable[[Tensor], tuple[float, Tensor]]
"""Prune counts int32 [R] -> (quality of the layer, quality of each row float64 [R])."""


def search_rows(
    evaluate: Evaluate,
    rounding: Rounding,
    learning_rates: Sequence[float],
    negative_learning_rates: Sequence[float],
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Prune counts int32 [R] and the trace of what was tried.

    Each learning rate starts from uniform shares and takes ``iterations`` steps. Rates are tried in the given order
    until one is no better than the one before it; the negative ones only if no positive one beat uniform.

    The trace is float64 [1 + number of rates, 1 + iterations]: ``trace[0, 0]`` is the quality of uniform shares,
    ``trace[1 + r, i]`` that of rate r after i steps, NaN where nothing was tried.
    """
    trace = torch.full(
        (1 + len(learning_rates) + len(negative_learning_rates), 1 + iterations), math.nan, dtype=torch.float64
    )
    best_shares = uniform = rounding.uniform()
    baseline, uniform_rows = evaluate(rounding.counts(uniform))
    trace[0, 0] = best_quality = baseline
    first_trial = 1
    for rates in (learning_rates, negative_learning_rates):
        previous = -math.inf
        for trial, rate in enumerate(rates, start=first_trial):
            quality, shares = baseline, uniform
            candidate, row_quality = uniform, uniform_rows
            trace[trial, 0] = baseline
            for iteration in range(1, iterations + 1):
                candidate = rounding.confine(step(candidate, row_quality, rate))
                candidate_quality, row_quality = evaluate(rounding.counts(candidate))
                trace[trial, iteration] = candidate_quality
                if candidate_quality > quality:
                    quality, shares = candidate_quality, candidate
            if quality > best_quality:
                best_quality, best_shares = quality, shares
            if not quality > previous:
                break
            previous = quality
        if best_quality > baseline:
            break
        first_trial += len(rates)
    return rounding.finish(best_shares), trace


def step(shares: Tensor, row_quality: Tensor, rate: float) -> Tensor:
    """Move sparsity toward the rows that keep their output best (away from them if the rate is negative).

    ``d = (q - min q) / (max q - min q + 1e-6);  shares + 2 rate d - mean(2 rate d)``
    """
    low, high = row_quality.min(), row_quality.max()
    change = (row_quality - low) / (high - low + 1e-6) * (2 * rate)
    change = change - change.mean()
    return (shares.to(torch.float64) + change).to(shares.dtype)
