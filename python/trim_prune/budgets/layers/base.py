"""What a layer budget is, and the registry of layer budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...calibration.statistics import LinearStatistics, Need
from ...models.discover import Linear
from ...registry import Registry

if TYPE_CHECKING:
    from ...dense import DenseModel
    from ...recipe import Recipe


@dataclass(frozen=True)
class LayerRequest:
    """All linears of the blocks, in order, and the sparsity that they are to have together.

    ``prune_count``: that sparsity as an exact number of weights. ``limits``: the most weights that the row budget takes
    from each linear. ``statistics``: what was asked for by ``needs``, measured on the dense model; empty otherwise.
    ``dense``: the dense model, for a budget that runs it; None otherwise. ``on_device``: the context in which the
    weights of the block of that index can be read; outside it they may be on a disk.
    """

    linears: Sequence[Linear]
    sparsity: float
    prune_count: int
    limits: Sequence[int]
    statistics: Mapping[Linear, LinearStatistics]
    recipe: Recipe
    dense: DenseModel | None = None
    on_device: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()

    @property
    def blocks(self) -> dict[int, list[Linear]]:
        """The linears of each block, by the block's index; a block without linears is not there."""
        blocks: dict[int, list[Linear]] = {}
        for linear in self.linears:
            blocks.setdefault(linear.block, []).append(linear)
        return blocks


LayerFunction = Callable[[LayerRequest], Sequence[float]]
HeldOut = Callable[["Recipe", int], int]


@dataclass(frozen=True)
class LayerBudget:
    """A registered layer budget: its function, the statistics it needs, and, if it runs the model, on what.

    ``together``: of several processes that prune together, all call it, each with its own sequences in
    ``request.dense.states``; otherwise the first one does, with all of them.
    """

    function: LayerFunction
    needs: frozenset[Need]
    held_out: HeldOut | None
    together: bool = False

    @property
    def needs_text(self) -> bool:
        """Whether it has to see the model at work, on calibration text."""
        return bool(self.needs) or self.held_out is not None


LAYER_BUDGETS: Registry[LayerBudget] = Registry("layer budget")


def register_layer_budget(
    name: str, *, needs: Iterable[Need] = (), held_out: HeldOut | None = None, together: bool = False
) -> Callable[[LayerFunction], LayerFunction]:
    """Register ``function(request) -> sparsities`` under a name.

    One that runs the model finds it in the request. ``held_out(recipe, seqlen)`` says how many sequences of that length
    it wants beside those of calibration.

    It returns one sparsity per linear, in their order. They are shifted together and clamped, so that none leaves
    [0, what its row budget allows] and the whole meets the target to the weight: only their differences matter.
    ``trim_kernels.testing.check_layer_budget`` says what else it owes.
    """

    def add(function: LayerFunction) -> LayerFunction:
        LAYER_BUDGETS.register(name, LayerBudget(function, frozenset(needs), held_out, together))
        return function

    return add
