"""How much of each output row survives pruning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trim_kernels.checks import as_prune_count, check_inputs, check_scoring, check_weight

EPSILON = 1e-8
"""Added to each norm of a cosine, as TRIM's authors do."""
POWER_EPSILON = 1e-10
"""Added to the error power inside a logarithm, as TRIM's authors do."""


@dataclass(frozen=True)
class RowQuality:
    """Statistics of ``y = weight @ inputs`` [R, N] and of ``e``, the part of ``y`` that the pruned weights carried.

    All are float64 [R]; what remains after pruning is ``y - e``. Every quality below follows from them:

    * cosine: ``<y, y - e> / ((|y| + 1e-8) (|y - e| + 1e-8))``, clamped to [-1, 1]
    * mse: ``|e|^2 / N``
    * psnr: ``10 log10(max(y^2) / (mse + 1e-10))`` in dB; 0 where the dense output is all zero

    The layer's qualities take the whole matrix as one vector. Source: TRIM, arXiv 2505.16743.
    """

    dense_sq: Tensor
    """|y|^2 of each row."""
    dropped_sq: Tensor
    """|e|^2 of each row."""
    cross: Tensor
    """<y, e> of each row."""
    peak: Tensor
    """max(y^2) of each row."""
    tokens: int
    """N, the number of columns of the inputs."""

    @property
    def cosine(self) -> Tensor:
        """float64 [R]"""
        return _cosine(self.dense_sq, self.dropped_sq, self.cross)

    @property
    def mse(self) -> Tensor:
        """float64 [R]"""
        return self.dropped_sq / self.tokens

    @property
    def psnr(self) -> Tensor:
        """float64 [R], dB"""
        return decibel(self.peak, self.mse)

    @property
    def layer_cosine(self) -> float:
        return float(_cosine(self.dense_sq.sum(), self.dropped_sq.sum(), self.cross.sum()))

    @property
    def layer_mse(self) -> float:
        return float(self.dropped_sq.sum() / max(1, self.dropped_sq.numel() * self.tokens))

    @property
    def layer_psnr(self) -> float:
        if self.peak.numel() == 0:
            return 0.0
        return float(decibel(self.peak.max(), self.peak.new_tensor(self.layer_mse)))


def _cosine(dense_sq: Tensor, dropped_sq: Tensor, cross: Tensor) -> Tensor:
    kept_sq = (dense_sq - 2 * cross + dropped_sq).clamp(min=0)
    norms = (dense_sq.sqrt() + EPSILON) * (kept_sq.sqrt() + EPSILON)
    return ((dense_sq - cross) / norms).clamp(-1, 1)


def decibel(power: Tensor, error: Tensor) -> Tensor:
    """``10 log10(power / (error + 1e-10))``, 0 where there is no power."""
    ratio = torch.where(power > 0, power / (error + POWER_EPSILON), torch.ones_like(power))
    return 10 * torch.log10(ratio)


def row_quality(
    weight: Tensor,
    prune_count: int | Tensor,
    inputs: Tensor,
    *,
    column_scale: Tensor | None = None,
    score: Tensor | None = None,
    check_values: bool = True,
    backend: str = "auto",
) -> RowQuality:
    """Compare the outputs of a matrix before and after its rows lose their lowest scores.

    The native backend builds neither a mask nor a pruned weight. Products are accumulated in float32, the statistics
    over tokens in float64.

    Args:
        weight, prune_count, column_scale, score, check_values, backend: as in :func:`trim_kernels.row_threshold`.
        inputs: [C, N], one column a token, float32 (or bfloat16 or float16, taken as float32), finite.

    Raises:
        ValueError: as :func:`trim_kernels.row_threshold`, and for ``inputs`` alike; outputs beyond float32.
    """
    check_weight(weight)
    check_scoring(weight, column_scale, score)
    check_inputs(weight, inputs)
    counts = as_prune_count(weight, prune_count)
    dense_sq, dropped_sq, cross, peak = torch.ops.trim_kernels.row_quality(
        weight, counts, inputs, column_scale, score, check_values, backend
    )
    return RowQuality(dense_sq, dropped_sq, cross, peak, tokens=inputs.shape[1])
