"""What a layer budget is, the registry of layer budgets, and how shares become exact counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...models.discover import Linear
from ...registry import Registry

LayerFunction = Callable[[Sequence[Linear], float], Sequence[float]]


@dataclass(frozen=True)
class LayerBudget:
    """A registered layer budget: ``function(linears, sparsity) -> one sparsity per linear``."""

    function: LayerFunction


LAYER_BUDGETS: Registry[LayerBudget] = Registry("layer budget")


def register_layer_budget(name: str) -> Callable[[LayerFunction], LayerFunction]:
    """Register ``function(linears, sparsity)`` under a name.

    It returns one sparsity per linear, in their order, whose mean over the weights is the target.
    """

    def add(function: LayerFunction) -> LayerFunction:
        LAYER_BUDGETS.register(name, LayerBudget(function))
        return function

    return add


def apportion(sparsities: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Integer prune counts whose sum is exactly ``total``, by largest remainder.

    Every linear gets floor(sparsity * size); what is missing goes, one weight each, to the linears with the
    largest remainders, the earlier one first when they tie. ``total`` must lie within rounding of the sum of
    sparsity * size.
    """
    for sparsity in sparsities:
        if not 0 <= sparsity <= 1:
            raise ValueError(f"a sparsity of {sparsity} is not a share from 0 to 1")
    # Exact rationals: in float64 the sum over a large model need not round to the same integer as its parts.
    shares = [Fraction(sparsity) * size for sparsity, size in zip(sparsities, sizes, strict=True)]
    counts = [int(share) for share in shares]
    missing = total - sum(counts)
    if not 0 <= missing <= len(counts):
        raise ValueError(f"total {total} is not within rounding of {float(sum(shares))}, the sum of the shares")
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for index in order[:missing]:
        counts[index] += 1
    return counts
