"""The model before anything is pruned, for layer budgets that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .calibration.tokens import Calibration
from .events import Events
from .models.capture import Capture
from .models.discover import Block, Linear
from .states import States
from .team import ALONE, Team
from .timing import Timings


@dataclass(frozen=True)
class DenseModel:
    """The model as it came, and the text to run it on.

    ``states``: of the calibration sequences, at the first block. ``batch_size``: sequences in one forward. ``device``:
    where blocks compute. ``folder``: where files about the run go; None if nothing is written. ``output_gradients``: of
    the linears, where the row budget needs them. ``team``: where this process is one of several, ``states`` are those
    of its own sequences; only a layer budget that is registered as ``together`` sees it so, any other one has them all.
    """

    capture: Capture
    states: States
    calibration: Calibration
    batch_size: int
    device: torch.device
    events: Events
    timings: Timings
    folder: Path | None
    output_gradients: Mapping[Linear, Tensor] = field(default_factory=dict)
    team: Team = ALONE

    @property
    def module(self) -> nn.Module:
        """The whole model."""
        return self.capture.model

    @property
    def blocks(self) -> Sequence[Block]:
        """Its blocks, in order."""
        return self.capture.blocks
