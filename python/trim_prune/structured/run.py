"""A structured prune from a loaded model to a checked folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..calibration.tokens import Calibration
from ..errors import TrimPruneError
from ..events import Events
from ..fallbacks import counted
from ..models.capture import PROBE_TOKENS
from ..models.load import LoadedModel
from ..models.staging import write_errors
from ..runfile import describe, write_facts
from ..timing import Timings
from .check import check_written
from .modes import uniform_config
from .plan import Plan, count_parameters, make_plan, refuse_few_tokens
from .recipe import StructuredRecipe
from .results import Parameters, PartResult, Speed, StructuredResult
from .save import stored_dtype, write_smaller
from .speed import tokens_per_second
from .target import Counts, removed
from .walk import walk


def prune_structure(
    loaded: LoadedModel,
    recipe: StructuredRecipe,
    calibrate: Callable[[], Calibration | None],
    events: Events,
    timings: Timings,
    folder: Path | None,
    out: Path | None,
    max_shard_size: int | None = None,
) -> StructuredResult:
    """Plan, prune and measure; write to ``folder``, and check what was written, if there is one to write to.

    ``calibrate``: makes the calibration sequences, once the plan is known to be possible. ``out``: the name that the
    folder will have. ``max_shard_size``: bytes of its largest weight file.
    """
    model = loaded.model
    if folder is not None and loaded.tokenizer is None:
        raise TrimPruneError("a model object needs its tokenizer for a folder to write", fix="tokenizer=...")
    if torch.promote_types(stored := stored_dtype(loaded), model.dtype) != model.dtype:
        events.warn(
            f"the model is stored in {stored} and computed in {model.dtype}: all its weights are rounded to that"
        )
    with timings.phase("plan"):
        plan = make_plan(model, recipe)
    for note in plan.notes:
        events.emit("note", message=note)
    calibration = calibrate()
    if calibration is not None:
        refuse_few_tokens(plan, calibration.token_ids.numel())
    prompt = torch.arange(PROBE_TOKENS)[None] if calibration is None else calibration.token_ids[:1, :PROBE_TOKENS]
    with timings.phase("speed"):
        dense = tokens_per_second(model, prompt)
    events.emit("phase", name="prune")
    parts, cosines, counts = walk(plan, calibration, events, timings)
    _warn_of_steps(parts, events)
    if recipe.mode == "uniform":
        model.config = _smaller_config(plan, counts)
    with timings.phase("speed"):
        pruned = tokens_per_second(model, prompt)
    result = StructuredResult(
        model=model,
        recipe=recipe,
        parameters=_parameters(plan, counts),
        parts=parts,
        cosines=cosines,
        speed=Speed(dense, pruned, str(next(model.parameters()).device)),
        check=None,
        sample_ids=calibration.sample_ids if calibration else [],
        timings=timings.seconds,
        memory=timings.memory,
        warnings=events.warnings,
        out=out,
    )
    if folder is None:
        return result
    return _write(result, loaded, plan, calibration, prompt, events, timings, folder, max_shard_size)


def _write(
    result: StructuredResult,
    loaded: LoadedModel,
    plan: Plan,
    calibration: Calibration | None,
    prompt: Tensor,
    events: Events,
    timings: Timings,
    folder: Path,
    max_shard_size: int | None,
) -> StructuredResult:
    events.emit("phase", name="write")
    with write_errors(result.out or folder):
        with timings.phase("write"):
            write_smaller(loaded, plan.parts, plan.recipe.mode, folder, max_shard_size)
        with timings.phase("check"):
            check = check_written(loaded.model, prompt, folder)
        result = replace(result, check=check)
        write_facts(describe(result, _figures(result, plan), loaded, calibration, str(plan.device)), folder)
    return result


def _figures(result: StructuredResult, plan: Plan) -> dict[str, Any]:
    return {
        "units": [{part.kind: part.units for part in parts} for parts in plan.parts],
        "parameters": vars(result.parameters) | {"share": result.parameters.share},
        "parts": [vars(part) for part in result.parts],
        "cosines": result.cosines,
        "speed": vars(result.speed),
        "check": None if result.check is None else vars(result.check),
    }


def _parameters(plan: Plan, counts: Counts) -> Parameters:
    dense, pruned = plan.limits.parameters, count_parameters(plan.model)
    target = None if plan.wanted is None else dense - plan.wanted
    zeros = removed(counts, plan.limits) if plan.recipe.mode == "masked" else 0
    return Parameters(dense, pruned, target, pruned - zeros)


def _smaller_config(plan: Plan, counts: Counts) -> Any:
    first = plan.parts[0]
    kept = [part.units - counts[part] for part in first]
    return uniform_config(plan.model.config, first, *kept)


def _warn_of_steps(parts: Sequence[PartResult], events: Events) -> None:
    fallen = [part.steps for part in parts if part.steps]
    if fallen:
        events.warn(f"{counted(fallen, len(parts), 'parts')}; run.json names them")
