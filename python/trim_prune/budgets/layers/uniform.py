"""Uniform layers: the target sparsity in every linear."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.discover import Linear
from .base import register_layer_budget


@register_layer_budget("uniform")
def uniform(linears: Sequence[Linear], sparsity: float) -> Sequence[float]:
    """The same sparsity for each linear."""
    return [sparsity] * len(linears)
