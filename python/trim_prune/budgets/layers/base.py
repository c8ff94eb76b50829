"""What a layer budget is, and the registry of layer budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...calibration.statistics import LinearStatistics, Need
from ...models.discover import Linear
from ...registry import Registry

if TYPE_CHECKING:
    from ...recipe import Recipe


@dataclass(frozen=True)
class LayerRequest:
    """All linears of the blocks, in order, and the sparsity that they are to have together.

    ``prune_count``: that sparsity as an exact number of weights. ``limits``: the most weights that the row budget takes
    from each linear. ``statistics``: what was asked for by ``needs``, measured on the dense model; empty otherwise.
    """

    linears: Sequence[Linear]
    sparsity: float
    prune_count: int
    limits: Sequence[int]
    statistics: Mapping[Linear, LinearStatistics]
    recipe: Recipe

    @property
    def blocks(self) -> dict[int, list[Linear]]:
        """The linears of each block, by the block's index; a block without linears is not there."""
        blocks: dict[int, list[Linear]] = {}
        for linear in self.linears:
            blocks.setdefault(linear.block, []).append(linear)
        return blocks


LayerFunction = Callable[[LayerRequest], Sequence[float]]


@dataclass(frozen=True)
class LayerBudget:
    """A registered layer budget: its function and the statistics it needs."""

    function: LayerFunction
    needs: frozenset[Need]


LAYER_BUDGETS: Registry[LayerBudget] = Registry("layer budget")


def register_layer_budget(name: str, *, needs: Iterable[Need] = ()) -> Callable[[LayerFunction], LayerFunction]:
    """Register ``function(request) -> sparsities`` under a name.

    It returns one sparsity per linear, in their order. They are shifted together and clamped, so that none leaves
    [0, what its row budget allows] and the whole meets the target to the weight: only their differences matter.
    """

    def add(function: LayerFunction) -> LayerFunction:
        LAYER_BUDGETS.register(name, LayerBudget(function, frozenset(needs)))
        return function

    return add
