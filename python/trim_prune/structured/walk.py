"""The walk over the blocks: measure a part, choose what goes, repair, shrink; then the next part on its new input."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from trim_kernels.precision import full_float32

from ..calibration.tokens import Calibration
from ..errors import TrimPruneError
from ..estimate.structured import structured_batch_size
from ..events import Events
from ..models.capture import Capture, Captured
from ..models.device import evaluation_mode, on_device
from ..states import States
from ..timing import Timings
from .choose import Measured, choose
from .modes import may_add_bias
from .moments import measure
from .parts import Part
from .plan import Plan, cosine_blocks
from .ratios import by_cosine, cosines
from .repair import Inputs, Repaired, repair
from .results import PartResult
from .shrink import indices, keep_units
from .target import Counts, divide


@torch.no_grad()
def walk(
    plan: Plan, calibration: Calibration | None, events: Events, timings: Timings
) -> tuple[list[PartResult], list[float] | None, Counts]:
    """Prune the model in place, block by block.

    Each part is repaired towards what it puts out, whole, on the input that it has now, which the parts before it have
    changed; so the attention of a block is pruned before its feed-forward part is measured.
    """
    with evaluation_mode(plan.model):
        states = _states(plan, calibration, events, timings)
        found, counts = None, plan.counts
        if counts is None:
            with timings.phase("forward"):
                found = cosines(states, plan.blocks, events)
            counts = _counts(plan, found)
        results = []
        for block, parts in zip(plan.blocks, plan.parts, strict=True):
            start, done = time.perf_counter(), []
            with on_device(block, plan.device), full_float32(plan.device):
                done = [_prune_part(plan, part, counts[part], states, timings) for part in parts if counts[part]]
                if block is not plan.blocks[-1]:
                    with timings.phase("forward"):
                        states.propagate(block)
            results += done
            events.emit("block", **_facts(plan, block.index, done, time.perf_counter() - start))
    return results, found, counts


def _states(plan: Plan, calibration: Calibration | None, events: Events, timings: Timings) -> States:
    captured: list[Captured] = []
    if calibration is not None:
        batches = calibration.batches(structured_batch_size(plan, *calibration.token_ids.shape))
        with timings.phase("capture"):
            capture = Capture(plan.model, plan.blocks, batches[0])
            for number, batch in enumerate(batches, start=1):
                captured.append(capture(batch, captured[-1] if captured else None))
                events.emit("calibration", batch=number, batches=len(batches))
    return States(captured, plan.device)


def _counts(plan: Plan, found: Sequence[float]) -> Counts:
    assert plan.wanted is not None
    blocks = cosine_blocks(plan.recipe, len(plan.blocks))
    return divide(plan.parts, by_cosine(found, blocks, plan.recipe.cosine.temperature), plan.wanted, plan.limits)


def _prune_part(plan: Plan, part: Part, count: int, states: States, timings: Timings) -> PartResult:
    start, recipe = time.perf_counter(), plan.recipe
    # Of heads there are few, and their outputs are compared by differences of large sums.
    dtype = torch.float64 if part.heads else torch.float32
    weight = part.weight.to(dtype)
    measured = _measured(part, states, dtype, timings) if states.hidden else None
    with timings.phase("search"):
        kept, steps = choose(part, weight, measured, count, recipe)
    with timings.phase("repair"):
        columns = indices(kept, part.width)
        if measured is None:
            repaired = Repaired(weight[:, columns], None, "none", None, None)
        else:
            intercept, damping = may_add_bias(recipe.mode, part), recipe.full.damping
            repaired = repair(weight, measured.inputs, columns, recipe.repair, intercept=intercept, damping=damping)
        if not torch.isfinite(repaired.weight).all():
            raise TrimPruneError("the repair leaves NaN or infinity in the weights", where=part.where)
        keep_units(part, kept, repaired.weight, repaired.bias, masked=recipe.mode == "masked")
    return PartResult(
        block=part.block.index,
        kind=part.kind,
        units=part.units,
        kept=tuple(kept.tolist()),
        repair=repaired.how,
        error=repaired.error,
        repaired_error=repaired.repaired_error,
        seconds=time.perf_counter() - start,
        steps=(*steps, *repaired.steps),
    )


def _measured(part: Part, states: States, dtype: torch.dtype, timings: Timings) -> Measured:
    with timings.phase("forward"):
        moments, energy = measure(states, part)
    return Measured(Inputs(moments.mean.to(dtype), moments.covariance(dtype), moments.tokens), energy.sqrt())


def _facts(plan: Plan, block: int, done: Sequence[PartResult], seconds: float) -> dict[str, object]:
    return {
        "block": block,
        "blocks": len(plan.blocks),
        "seconds": seconds,
        "parts": [vars(result) | {"kept": len(result.kept)} for result in done],
    }
