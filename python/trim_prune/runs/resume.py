"""Going on where another process stopped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from ..errors import TrimPruneError
from ..events import Events
from ..models.device import on_device
from ..models.discover import Block
from ..results import LinearResult
from ..states import States
from ..timing import Timings
from .entries import results_of
from .shared import SharedRun


def resumed(
    run: SharedRun, blocks: Sequence[Block], states: States, device: torch.device, events: Events, timings: Timings
) -> list[LinearResult]:
    """The results of the blocks that are finished; afterwards ``states`` are those that the next one gets.

    They come from their file. Where there is none, every finished block runs once more on every batch, with the weights
    that it has in the output. A model in memory gets those weights too.

    Raises:
        TrimPruneError: the hidden states are not those that they were, so the rest of the model would not be either.
    """
    done = run.done
    if not done:
        return []
    with timings.phase("resume"):
        known = run.restore(states, len(done), done[-1]["outputs"])
        for entry, block in zip(done, blocks, strict=False):
            if not known and states.hidden:
                _refuse_others(run.digest(states), entry["inputs"], block)
            if known and block.store is not None:
                continue
            with on_device(block, device):
                if known or block is blocks[-1] or not states.hidden:
                    run.load(block)
                else:
                    states.replay(block, partial(run.load, block))
    for phase, seconds in done[-1]["seconds"].items():
        timings.seconds[phase] = timings.seconds.get(phase, 0.0) + seconds
    events.emit("resumed", blocks_done=len(done), blocks=len(blocks))
    return [result for entry in done for result in results_of(entry)]


def _refuse_others(found: str, expected: str | None, block: Block) -> None:
    if expected not in (None, found):
        raise TrimPruneError(
            "the hidden states are not those of the unfinished run, although all that is known of it is the same",
            where=f"the input of block {block.index}",
            fix="go on with the machine and the environment that it began with, or begin anew: --no-resume",
        )
