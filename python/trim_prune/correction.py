"""Weights that make up for what earlier blocks changed, before they are pruned themselves."""

from __future__ import annotations

from torch import Tensor

from .calibration.statistics import LinearStatistics


def corrected(weight: Tensor, statistics: LinearStatistics, share: float, damping: float | None) -> Tensor:
    """The weights [R, C] that bring the outputs on the current inputs nearer to the dense model's.

    With x the inputs, x_dense those of the dense model, D = sum of (x_dense - x) x^T and H the damped Gram matrix of x,
    W + W D H^-1 minimises the squared distance of its outputs on x to W x_dense, damping apart. Only ``share`` of the
    change is taken: all of it fits the calibration tokens, and them only. Unchanged where H has no factor.
    """
    upper = statistics.factor(damping).upper
    if upper is None:
        return weight
    change = ((weight.float() @ statistics.drift) @ upper.t()) @ upper
    return (weight.float() + share * change).to(weight.dtype)
