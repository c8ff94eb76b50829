"""One linear without the walk over a model: for tests of plug-ins, and for pruners that walk on their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .budgets.layers import LAYER_BUDGETS, LayerRequest
from .budgets.rows import ROW_BUDGETS, RowDecision, RowRequest
from .calibration.statistics import LinearStatistics, Need, search_positions, without_padding
from .errors import TrimPruneError
from .models.discover import Linear
from .recipe import Recipe
from .scores import SCORES, Importance, ScoreRequest
from .solvers import SOLVERS, SolveRequest


def score_linear(recipe: Recipe, weight: Tensor, inputs: Tensor, token_mask: Tensor | None = None) -> Importance:
    """How important the recipe's score finds the weights [R, C] of a linear with inputs [sequences, tokens, C].

    ``token_mask``: bool [sequences, tokens], True for the tokens that are not padding; None: all of them.
    """
    score = SCORES.get(recipe.score)
    return score.function(ScoreRequest(weight, _statistics(recipe, inputs, token_mask, score.needs), recipe))


def solve_linear(
    recipe: Recipe, weight: Tensor, inputs: Tensor, prune_count: Tensor, token_mask: Tensor | None = None
) -> Tensor:
    """Prune a weight [R, C] with inputs [sequences, tokens, C] in place, by the recipe's score and solver.

    ``prune_count``: int32 [R], of each row. ``token_mask``: as in :func:`score_linear`. Returns what is kept: uint8
    [R, ceil(C/8)], bit 1 = kept.
    """
    score, solver = SCORES.get(recipe.score), SOLVERS.get(recipe.solver)
    statistics = _statistics(recipe, inputs, token_mask, score.needs | solver.needs)
    importance = score.function(ScoreRequest(weight, statistics, recipe))
    return solver.function(SolveRequest(weight, prune_count, False, importance, statistics, recipe))


def count_linear(
    recipe: Recipe,
    weight: Tensor,
    inputs: Tensor,
    prune_count: int,
    token_mask: Tensor | None = None,
    output_gradient: Tensor | None = None,
) -> RowDecision:
    """How many weights of each row [C] of a linear with inputs [sequences, tokens, C] go, by the recipe's row budget.

    ``prune_count``: of all rows together. ``token_mask``: as in :func:`score_linear`. ``output_gradient``: float32 [R],
    see :class:`trim_prune.RowRequest`; None: all outputs count alike.
    """
    score, rows = SCORES.get(recipe.score), ROW_BUDGETS.get(recipe.rows)
    statistics = _statistics(recipe, inputs, token_mask, score.needs | rows.needs)
    importance = score.function(ScoreRequest(weight, statistics, recipe))
    request = RowRequest(weight, importance, statistics, prune_count, recipe, output_gradient=output_gradient)
    return rows.function(request)


def divide_linears(
    recipe: Recipe, weights: Sequence[Sequence[Tensor]], inputs: Sequence[Sequence[Tensor]], sparsity: float
) -> list[float]:
    """The sparsity of each linear of a model, by the recipe's layer budget.

    ``weights``: [R, C] by block and linear. ``inputs``: [sequences, tokens, C], likewise. ``sparsity``: of all of them
    together, in place of the recipe's.

    Raises:
        TrimPruneError: the layer budget runs the model as a whole.
    """
    budget, recipe = LAYER_BUDGETS.get(recipe.layers), recipe.model_copy(update={"sparsity": sparsity})
    if budget.held_out is not None or "output_gradient" in budget.needs:
        raise TrimPruneError(
            f"layer budget {recipe.layers!r} runs the model as a whole", fix="trim_prune.prune, with a model"
        )
    linears, statistics = [], {}
    for block, (own, given) in enumerate(zip(weights, inputs, strict=True)):
        for place, (weight, sequences) in enumerate(zip(own, given, strict=True)):
            module = nn.Linear(1, 1, bias=False)
            module.weight = nn.Parameter(weight, requires_grad=False)
            linear = Linear(f"blocks.{block}.linears.{place}", block, module)
            statistics[linear] = _statistics(recipe, sequences, None, budget.needs)
            linears.append(linear)
    row_limit = ROW_BUDGETS.get(recipe.rows).row_limit
    limits = [linear.shape[0] * row_limit(linear.shape[1], recipe) for linear in linears]
    total = round(sparsity * sum(linear.size for linear in linears))
    known = statistics if budget.needs else {}
    return list(budget.function(LayerRequest(linears, sparsity, total, limits, known, recipe)))


def _statistics(recipe: Recipe, inputs: Tensor, token_mask: Tensor | None, needs: frozenset[Need]) -> LinearStatistics:
    """Only what was declared is there, as in the engine; the dense model has the same inputs."""
    statistics = LinearStatistics()
    for sequences in without_padding(inputs, token_mask):
        positions = search_positions(sequences.shape[1], recipe.tokens_per_sequence)
        statistics.add(sequences, needs, positions, dense=sequences)
    return statistics
