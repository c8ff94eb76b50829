"""Qualities that the search maximises; higher is better, so errors are negated.

Names and formulas are those of TRIM (arXiv 2505.16743) and its code: a plain name takes the output matrix as one
vector, ``_rows`` averages over output rows, ``_tokens`` over tokens. Most follow from :class:`RowQuality` alone; three
need the outputs themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from trim_kernels.ops.row_quality import EPSILON, POWER_EPSILON, RowQuality, decibel

ROW_METRICS: dict[str, Callable[[RowQuality], Tensor]] = {
    "cosine": lambda quality: quality.cosine,
    "mse": lambda quality: -quality.mse,
    "psnr": lambda quality: quality.psnr,
}


def _snr(quality: RowQuality) -> float:
    noise = quality.layer_mse
    if noise < POWER_EPSILON:
        return float("inf")
    signal = quality.dense_sq.sum() / (quality.dense_sq.numel() * quality.tokens)
    return float(decibel(signal, signal.new_tensor(noise)))


STATISTIC_METRICS: dict[str, Callable[[RowQuality], float]] = {
    "cosine": lambda quality: quality.layer_cosine,
    "cosine_rows": lambda quality: float(quality.cosine.mean()),
    "mse": lambda quality: -quality.layer_mse,
    "mse_rows": lambda quality: -float(quality.mse.mean()),
    "snr": _snr,
    "psnr": lambda quality: quality.layer_psnr,
    "psnr_rows": lambda quality: float(quality.psnr.mean()),
}
"""Layer metrics that follow from the row statistics."""


def _cosine_tokens(dense: Tensor, pruned: Tensor) -> float:
    norms = (dense.norm(dim=0) + EPSILON) * (pruned.norm(dim=0) + EPSILON)
    return float(((dense * pruned).sum(dim=0) / norms).clamp(-1, 1).mean())


def _psnr_tokens(dense: Tensor, pruned: Tensor) -> float:
    peak = dense.square().amax(dim=0)
    return float(decibel(peak, (dense - pruned).square().mean(dim=0)).mean())


OUTPUT_METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "mae": lambda dense, pruned: -float((dense - pruned).abs().mean()),
    "cosine_tokens": _cosine_tokens,
    "psnr_tokens": _psnr_tokens,
}
"""Layer metrics of the dense and the pruned output, float64 [R, N]."""


def quality_of_outputs(dense: Tensor, pruned: Tensor) -> RowQuality:
    """Row statistics of float64 outputs [R, N]."""
    dropped = dense - pruned
    return RowQuality(
        dense_sq=dense.square().sum(dim=1),
        dropped_sq=dropped.square().sum(dim=1),
        cross=(dense * dropped).sum(dim=1),
        peak=dense.square().amax(dim=1),
        tokens=dense.shape[1],
    )


def metric_refusal(call: Mapping[str, object]) -> str | None:
    """Why a backend that keeps row statistics only cannot run this call of allocate_rows."""
    metric = call.get("layer_metric", "cosine")
    if metric in STATISTIC_METRICS:
        return None
    return f"layer_metric {metric!r} needs the outputs; without them only {', '.join(STATISTIC_METRICS)}"


def layer_metric_names() -> list[str]:
    return [*STATISTIC_METRICS, *OUTPUT_METRICS]


def layer_quality_of_outputs(name: str, dense: Tensor, pruned: Tensor, quality: RowQuality) -> float:
    if name in OUTPUT_METRICS:
        return OUTPUT_METRICS[name](dense, pruned)
    return STATISTIC_METRICS[name](quality)
