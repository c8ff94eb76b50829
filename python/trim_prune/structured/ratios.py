"""How much of each block may go: SlimLLM's ratios from the cosine of block input and output, and alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch.nn import functional

from ..errors import TrimPruneError
from ..events import Events
from ..models.device import on_device
from ..models.discover import Block
from ..states import States
from .recipe import BlockRule


@dataclass(frozen=True)
class Share:
    """What a block gives: ``weight`` times the ratio of all, or a ``fixed`` ratio of its units."""

    weight: float
    fixed: float | None = None


def cosines(states: States, blocks: Sequence[Block], events: Events) -> list[float]:
    """For each block the mean over all tokens of cos(input, output) in the dense model; the states stay as they are."""
    walked, found = states.twin(), []
    for block in blocks:
        with on_device(block, states.device):
            before = list(walked.hidden)
            walked.propagate(block)
        pairs = zip(before, walked.hidden, strict=True)
        values = torch.cat([functional.cosine_similarity(x.float(), y.float(), dim=-1).flatten() for x, y in pairs])
        found.append(float(values.double().mean()))
        events.emit("similarity", block=block.index, blocks=len(blocks), cosine=found[-1])
    return found


def by_cosine(values: Sequence[float], blocks: int, temperature: float) -> list[Share]:
    """W = P softmax(temperature * c) over the P blocks of the highest cosine, which change their input least.

    The others give nothing. The earlier block comes first where cosines tie.
    """
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))[:blocks]
    weights = len(order) * torch.softmax(temperature * torch.tensor([values[i] for i in order]).double(), dim=0)
    found = dict(zip(order, weights.tolist(), strict=True))
    return [Share(found.get(index, 0.0)) for index in range(len(values))]


def by_table(rules: Sequence[BlockRule], blocks: Sequence[Block]) -> list[Share]:
    """The ratio of its rule for a block that one matches; the others share the rest of the target evenly.

    Raises:
        TrimPruneError: a rule without a block, or two ratios for one block.
    """
    fixed: dict[int, BlockRule] = {}
    for rule in rules:
        matched = [block for block in blocks if fnmatchcase(block.name, rule.match)]
        if not matched:
            raise TrimPruneError(
                "a rule of the table matches no block",
                where=_show(rule),
                expected=f"a pattern over names such as {blocks[0].name}",
            )
        for block in matched:
            first = fixed.setdefault(block.index, rule)
            if first.ratio != rule.ratio:
                raise TrimPruneError(
                    "two rules of the table give one block different ratios",
                    where=block.name,
                    got=f"{_show(first)}, {_show(rule)}",
                )
    return [Share(0.0, fixed[block.index].ratio) if block.index in fixed else Share(1.0) for block in blocks]


def _show(rule: BlockRule) -> str:
    return f"{{match: {rule.match!r}, ratio: {rule.ratio}}}"
