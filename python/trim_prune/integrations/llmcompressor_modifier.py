"""A modifier of llm-compressor that prunes by a recipe of ours: any score, budgets and solver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..budgets.layers import LAYER_BUDGETS
from ..calibration.tokens import Calibration
from ..engine import make_plan, sparsity_figures, walk
from ..errors import TrimPruneError
from ..events import Event, Events
from ..recipe import Recipe
from ..results import LinearResult, Sparsity
from ..timing import Timings

try:
    from llmcompressor.modifiers import Modifier
    from llmcompressor.modifiers.factory import ModifierFactory
    from loguru import logger
    from pydantic import PrivateAttr
except ImportError as error:
    raise TrimPruneError(
        "llmcompressor is not installed, or another than is known",
        got=f"{type(error).__name__}: {error}",
        fix="pip install 'trim-kernels[llmcompressor]'",
    ) from error

ELSEWHERE = {"samples": "num_calibration_samples", "seqlen": "max_seq_length", "dtype": "precision"}
"""Choices of a recipe that are made in the call of llm-compressor, and under which names."""


class TrimPruneModifier(Modifier):  # type: ignore[misc]
    """Prune the linears of the blocks by a recipe of ours, on the calibration data of llm-compressor::

        from llmcompressor import oneshot
        from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

        prune = TrimPruneModifier(recipe={"sparsity": 0.7, "rows": "optimal", "layers": "owl"})
        oneshot(model=model, dataset=dataset, recipe=[prune, QuantizationModifier(...)])

    ``recipe``: as of :class:`trim_prune.Recipe`; in a YAML recipe of llm-compressor the same under
    ``TrimPruneModifier:``, once this module is imported. ``samples``, ``seqlen`` and ``dtype`` are left to the call.

    The model is pruned when the modifier is initialised, block by block on the recipe's device, and so before any
    other modifier of the recipe looks at it. Padding is left out: where sequences differ in length, their tokens are
    joined and cut to the length of the longest. ``linears`` and ``sparsity`` then say what was done, as of a prune.

    Raises:
        TrimPruneError: as :func:`trim_prune.prune`; before anything is pruned, if it can be known.
    """

    recipe: dict[str, Any]

    _linears: list[LinearResult] = PrivateAttr(default_factory=list)
    _sparsity: Sparsity | None = PrivateAttr(default=None)

    @property
    def linears(self) -> list[LinearResult]:
        """What was done to each linear."""
        return self._linears

    @property
    def sparsity(self) -> Sparsity | None:
        """The exact counts; None until the model is pruned."""
        return self._sparsity

    def on_initialize(self, state: Any, **__: Any) -> bool:
        """Prune the model of the session."""
        recipe = _checked(Recipe.build(self.recipe))
        plan = make_plan(state.model, recipe)
        calibration = None
        if recipe.needs_text:
            if state.data.calib is None:
                raise TrimPruneError("calibration data is missing", fix="oneshot(..., dataset=...)")
            calibration = calibration_of(state.data.calib, recipe)
        self._linears, _, _ = walk(plan, calibration, Events(_log), Timings())
        self._sparsity = sparsity_figures(plan, self._linears)
        weights = {linear.name: linear.weight for linear in plan.linears}
        for result in self._linears:
            _require_zeros(weights[result.name], result)
        return True


ModifierFactory.register(TrimPruneModifier.__name__, TrimPruneModifier)


def calibration_of(batches: Iterable[Mapping[str, Tensor]], recipe: Recipe) -> Calibration:
    """The tokens of some batches, as sequences of one length; those that a layer budget judges by are the last ones.

    Raises:
        TrimPruneError: there are too few sequences.
    """
    rows: list[Tensor] = []
    for batch in batches:
        ids = batch["input_ids"].cpu()
        mask = batch.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu() != 0
        rows += [row[there] for row, there in zip(ids, real, strict=True)]
    seqlen = max(map(len, rows), default=0)
    tokens = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    windows = len(tokens) // seqlen if seqlen else 0
    judging = LAYER_BUDGETS.get(recipe.layers).held_out
    held_out = judging(recipe, seqlen) if judging is not None else 0
    samples = windows - held_out
    if samples < 1:
        raise TrimPruneError(
            "too little calibration data",
            expected=f"{1 + held_out} sequences of {seqlen} tokens or more",
            got=str(windows),
            fix="raise num_calibration_samples",
        )
    table = tokens[: windows * seqlen].view(windows, seqlen).long()
    return Calibration(table[:samples], list(range(samples)), "data of llm-compressor", windows, table[samples:])


def _checked(recipe: Recipe) -> Recipe:
    for name, other in ELSEWHERE.items():
        if name in recipe.model_fields_set:
            raise TrimPruneError(
                f"{name} is given in the recipe, and nothing reads it within llm-compressor",
                got=f"{name}: {getattr(recipe, name)}",
                fix=f"remove it, and give {other} to oneshot",
            )
    return recipe


def _require_zeros(weight: Tensor, result: LinearResult) -> None:
    """An error where a write did not reach the model, as of weights that something else moves between devices."""
    zeros = weight.numel() - int(torch.count_nonzero(weight))
    if zeros < result.prune_count:
        raise TrimPruneError(
            "what was pruned is not in the model",
            where=result.name,
            expected=f"{result.prune_count} zeros",
            got=str(zeros),
            fix="load the model onto the CPU, without a device map: blocks are moved one by one",
        )


def _log(event: Event) -> None:
    if event.kind == "warning":
        logger.warning(event.data["message"])
    elif event.kind == "block":
        logger.info("pruned block {} of {}", event.data["block"] + 1, event.data["blocks"])
