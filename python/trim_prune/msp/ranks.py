"""The ranks by which a search masks weights, as one pass over the calibration text finds them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from trim_kernels.precision import full_float32

from ..calibration.statistics import Collector, LinearStatistics
from ..dense import DenseModel
from ..models.device import home_of, on_device
from ..models.discover import Linear
from .fitness import restored
from .levels import Scale, rank_linear, rank_needs

if TYPE_CHECKING:
    from ..recipe import Recipe


def measure_ranks(
    dense: DenseModel, recipe: Recipe, scale: Scale, levels: Mapping[Linear, int] | None
) -> tuple[dict[Linear, Tensor], dict[str, tuple[str, ...]]]:
    """The ranks of all weights (uint8 [R, C]), by the inputs that the linears get; the fallbacks that any needed.

    ``levels``: those inputs come from blocks that are pruned to these levels, as in the sequential prune that will
    follow, so that a vector is judged by the masks that it would get; None: from the dense model. The weights are
    afterwards as they were.
    """
    needs = rank_needs(recipe)
    if not needs:
        found: dict[Linear, Tensor] = {}
        for block in dense.blocks:
            with on_device(block):
                found |= {linear: rank_linear(recipe, scale, linear, LinearStatistics()) for linear in block.linears}
        return found, {}
    ranks, fallen, walked = {}, {}, dense.states.twin()
    for block in dense.blocks:
        collector = Collector(block.linears, needs, recipe.tokens_per_sequence, partial(dense.timings.phase, "ranks"))
        home = home_of(block)
        with on_device(block, dense.device), restored(block):
            if levels is None:
                walked.propagate(block, collector)
            else:
                walked.collect(block, collector)
            for linear in block.linears:
                statistics = collector.statistics(linear)
                with full_float32(dense.device):
                    rank = rank_linear(recipe, scale, linear, statistics, dense.output_gradients.get(linear))
                if statistics.steps:
                    fallen[linear.name] = statistics.steps
                if levels is not None:
                    linear.weight.masked_fill_(rank >= levels[linear], 0)
                ranks[linear] = rank.to(home)
            if levels is not None:
                walked.propagate(block)
    return ranks, fallen
