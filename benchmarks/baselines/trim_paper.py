"""TRIM's search as its formulas read, without any of our shortcuts (arXiv 2505.16743).

Every evaluation scatters an int64 order into a mask, multiplies the masked weight with all inputs in float32, and takes
the metrics of the two outputs in float64. Learning rates stop early as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

POSITIVE = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16)
NEGATIVE = (-0.01, -0.02, -0.04)
MAX_SPARSITY = 0.95


@dataclass(frozen=True)
class PaperResult:
    prune_count: Tensor
    quality: float
    baseline_quality: float
    learning_rate: float | None
    iteration: int
    evaluations: int


def cosine(y: Tensor, z: Tensor, dim: int | None = None) -> Tensor:
    keep = dim is not None
    y_norm = y.pow(2).sum(dim, keepdim=keep).sqrt() + 1e-8
    z_norm = z.pow(2).sum(dim, keepdim=keep).sqrt() + 1e-8
    return (y / y_norm * (z / z_norm)).sum(dim).clamp(-1, 1)


def mse(y: Tensor, z: Tensor, dim: int | None = None) -> Tensor:
    return (y - z).pow(2).mean(dim)


def psnr(y: Tensor, z: Tensor, dim: int | None = None) -> Tensor:
    peak = y.pow(2).max() if dim is None else y.pow(2).max(dim).values
    return 10 * torch.log10(peak / (mse(y, z, dim) + 1e-10))


def snr(y: Tensor, z: Tensor) -> Tensor:
    noise = mse(y, z)
    return 10 * torch.log10(y.pow(2).mean() / (noise + 1e-10)) if noise >= 1e-10 else torch.tensor(float("inf"))


LAYER_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "cosine_rows": lambda y, z: cosine(y, z, 1).mean(),
    "cosine_tokens": lambda y, z: cosine(y, z, 0).mean(),
    "mse": lambda y, z: -mse(y, z),
    "mse_rows": lambda y, z: -mse(y, z, 1).mean(),
    "mae": lambda y, z: -(y - z).abs().mean(),
    "snr": snr,
    "psnr": psnr,
    "psnr_rows": lambda y, z: psnr(y, z, 1).mean(),
    "psnr_tokens": lambda y, z: psnr(y, z, 0).mean(),
}
ROW_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda y, z: cosine(y, z, 1),
    "mse": lambda y, z: -mse(y, z, 1),
    "psnr": lambda y, z: psnr(y, z, 1),
}


def keep_mask(order: Tensor, shares: Tensor) -> Tensor:
    """True = kept; row i loses the first trunc(C * share) columns of its order."""
    rows, columns = order.shape
    lost = (columns * shares).long()
    position = torch.arange(columns, device=order.device).expand(rows, columns)
    row = torch.arange(rows, device=order.device).unsqueeze(1).expand(rows, columns)
    mask = torch.ones(rows, columns, dtype=torch.bool, device=order.device)
    mask[row, order] = position >= lost.unsqueeze(1)
    return mask


def trim_paper(
    weight: Tensor,
    inputs: Tensor,
    sparsity: float,
    column_scale: Tensor,
    layer_metric: str = "cosine",
    row_metric: str = "cosine",
    learning_rates: Sequence[float] = POSITIVE,
    negative_learning_rates: Sequence[float] = NEGATIVE,
    iterations: int = 10,
) -> PaperResult:
    order = torch.sort(weight.abs() * column_scale, dim=1, stable=True).indices
    dense_weight = weight.float()
    dense = (dense_weight @ inputs).double()
    evaluations = 0

    def evaluate(shares: Tensor) -> tuple[float, Tensor]:
        nonlocal evaluations
        evaluations += 1
        pruned = ((dense_weight * keep_mask(order, shares)) @ inputs).double()
        return float(LAYER_METRICS[layer_metric](dense, pruned)), ROW_METRICS[row_metric](dense, pruned)

    def limit(shares: Tensor) -> Tensor:
        shares = shares.clamp(0, MAX_SPARSITY)
        return shares - shares.mean() + sparsity

    uniform = torch.ones(weight.shape[0], device=weight.device) * sparsity
    baseline, uniform_rows = evaluate(uniform)
    best, best_shares, best_rate, best_iteration = baseline, uniform, None, 0
    for rates in (learning_rates, negative_learning_rates):
        if best_rate is not None:
            break
        before = float("-inf")
        for rate in rates:
            shares, rows, found = uniform, uniform_rows, (baseline, uniform, 0)
            for iteration in range(1, iterations + 1):
                change = (rows - rows.min()) / (rows.max() - rows.min() + 1e-6) * (rate * 2)
                shares = limit((shares + (change - change.mean())).float())
                quality, rows = evaluate(shares)
                if quality > found[0]:
                    found = (quality, shares, iteration)
            if found[0] > best:
                best, best_shares, best_iteration = found
                best_rate = rate
            if not found[0] > before:
                break
            before = found[0]
    counts = (weight.shape[1] * limit(best_shares)).long().clamp(min=0).int()
    return PaperResult(counts, best, baseline, best_rate, best_iteration, evaluations)
