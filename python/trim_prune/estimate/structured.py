"""What a structured prune will do and take: sizes, parameters, the mode of the output and what can load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..activations import SHARE, free_on
from ..structured.modes import MEANING
from ..structured.parts import UNITS
from ..structured.plan import Plan
from ..structured.target import removed
from .batch import largest
from .forward import forward_workspace
from .memory import Moment, Place
from .subject import block_bytes, bytes_of
from .workspaces import DOUBLE, FLOAT

LEFT_OPEN = "the sizes of the blocks follow from cosines, which the run measures"


@dataclass(frozen=True)
class Shrinking:
    """How a model becomes smaller.

    ``stay`` of ``parameters``, or are not zero in masked mode: exactly, where the sizes are known; else what is aimed
    at, within one channel.
    ``sizes``: of each block what stays of what, by part; empty where ``left_open`` says why. ``loads``: what the mode
    means for loading.
    """

    parameters: int
    stay: int
    mode: str
    loads: str
    sizes: Mapping[str, Mapping[str, tuple[int, int]]]
    left_open: str | None


def shrinking(plan: Plan) -> Shrinking:
    """The sizes of a structured prune, so far as they are known before it."""
    counts, recipe = plan.counts, plan.recipe
    gone = plan.wanted if counts is None else removed(counts, plan.limits)
    assert gone is not None
    sizes: dict[str, dict[str, tuple[int, int]]] = {}
    if counts is not None:
        for block, parts in zip(plan.blocks, plan.parts, strict=True):
            sizes[block.name] = {UNITS[part.kind]: (part.units - counts[part], part.units) for part in parts}
    return Shrinking(
        parameters=plan.limits.parameters,
        stay=plan.limits.parameters - gone,
        mode=recipe.mode,
        loads=MEANING[recipe.mode],
        sizes=sizes,
        left_open=LEFT_OPEN if counts is None else None,
    )


def structured_batch_size(plan: Plan, sequences: int, tokens: int) -> int:
    """Sequences in one forward: as the recipe says, or as many as half of what is free allows."""
    size = plan.recipe.batch_size
    if size != "auto":
        return size
    needed = forward_workspace(plan.model, plan.blocks, tokens).of
    return largest(sequences, tokens, needed, int(SHARE * free_on(plan.device)))


def structured_moments(plan: Plan, batch: int, sequences: int, tokens: int, element: int) -> list[Moment]:
    """The whole model, hidden states, and in turn: a block tried in float64, the repair, and the model once more.

    The last is that of the process that loads the output to check it.
    """
    whole = sum(bytes_of(parameter) for parameter in plan.model.parameters())
    block = max(block_bytes(block) for block in plan.blocks)
    hidden = sequences * tokens * plan.blocks[0].linears[0].shape[1] * element
    computing: dict[str, dict[str, int]] = {
        "try": {"a block in float64": block // element * (2 * DOUBLE + element)},
        "prune": {"repair": _repair(plan)},
    }
    if sequences:
        computing["prune"]["forward"] = forward_workspace(plan.model, plan.blocks, tokens).of(batch)
    found = []
    on_gpu = plan.device.type == "cuda"
    for name, parts in computing.items():
        host = {"model": whole, "hidden states": hidden if name == "prune" else 0}
        # The trial runs on the CPU.
        gpu = on_gpu and name == "prune"
        place: Place = "gpu" if gpu else "host"
        found.append(Moment(name, "host", host if gpu else host | parts))
        if gpu:
            found.append(Moment(name, place, {"block": block, **parts}))
    found.append(Moment("check", "host", {"model": whole, "model, in a second process": whole}))
    return found


def _repair(plan: Plan) -> int:
    """Of the widest part, C inputs and D outputs: four [C, C] matrices and five [D, C]; heads in float64."""
    sizes = []
    for part in (part for each in plan.parts for part in each):
        outputs, columns = part.weight.shape
        sizes.append((DOUBLE if part.heads else FLOAT) * (4 * columns**2 + 5 * outputs * columns))
    return max(sizes)
