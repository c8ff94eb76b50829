"""Uniform layers: the target sparsity in every linear."""

from __future__ import annotations

from collections.abc import Sequence

from .base import LayerRequest, register_layer_budget


@register_layer_budget("uniform")
def uniform(request: LayerRequest) -> Sequence[float]:
    """The same sparsity for each linear."""
    return [request.sparsity] * len(request.linears)
