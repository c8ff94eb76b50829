"""MSP (Xu et al. 2025, arXiv 2503.11164): what each unit keeps, by Fisher information and evolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...msp.fitness import sequences_wanted
from ...msp.search import search
from .base import LayerRequest, register_layer_budget

if TYPE_CHECKING:
    from ...recipe import Recipe


def held_out(recipe: Recipe, seqlen: int) -> int:
    """The sequences that judge candidates."""
    return sequences_wanted(recipe.msp.stages, seqlen)


@register_layer_budget("msp", held_out=held_out)
def msp(request: LayerRequest) -> Sequence[float]:
    """The sparsities of the best vector that the search finds; see :mod:`trim_prune.msp`.

    From the paper: the sensitivity of a unit is the trace of its Fisher information, sensitive units begin with more
    weights, vectors of equal overall sparsity are bettered by crossover and mutation, judged by the pruned model, and
    the best one goes to any pruner. Ours, where the paper could not be read or is silent: everything in
    :class:`trim_prune.options.MspOptions`, integer levels that meet the budget exactly, judgement by stages, and the
    masks and rounds of :mod:`trim_prune.msp.rounds`.
    """
    sparsities = search(request)
    return [sparsities[linear] for linear in request.linears]
