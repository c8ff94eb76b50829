"""The hidden states of all calibration batches, at the block that the walk has reached."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from .calibration.statistics import Collector
from .models.capture import Call, Captured
from .models.discover import Block, find_linears
from .models.watch import watched


class States:
    """Runs one block at a time on every batch: ``hidden[i]`` is what enters it, ``calls[i]`` its other arguments."""

    def __init__(self, captured: Sequence[Captured], device: torch.device) -> None:
        self.device = device
        self.hidden = [batch.hidden for batch in captured]
        self.calls: list[tuple[Call, ...]] = [batch.calls for batch in captured]

    def collect(self, block: Block, collector: Collector) -> None:
        """Run a block on every batch for the sake of its hooks."""
        for index, hidden in enumerate(self.hidden):
            with collector.batch(hidden.shape[0], hidden.shape[1]):
                self.run(block, block.module, index)

    def propagate(self, block: Block, collector: Collector | None = None) -> None:
        """Replace the hidden states by the block's output, for the sake of its hooks too if there is a collector."""
        for index, hidden in enumerate(self.hidden):
            with collector.batch(hidden.shape[0], hidden.shape[1]) if collector else nullcontext():
                self.hidden[index] = self.run(block, block.module, index)

    def twin(self) -> States:
        """Plain states of their own at the same block, for a walk that leaves these as they are."""
        twin = States([], self.device)
        twin.hidden, twin.calls = list(self.hidden), self.calls
        return twin

    def run(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """The output for one batch, where its hidden states lie."""
        hidden = self.hidden[index]
        return self.calls[index][block.index].run(module, hidden.to(self.device), self.device).to(hidden.device)


class PairedStates(States):
    """Beside the hidden states of the pruned model those of the dense one, to compare the inputs of linears."""

    def __init__(self, captured: Sequence[Captured], device: torch.device) -> None:
        super().__init__(captured, device)
        self._dense = self.twin()
        self._after: dict[int, Tensor] = {}
        self._module: nn.Module | None = None

    def collect(self, block: Block, collector: Collector) -> None:
        """As :meth:`States.collect`; the hooks see the dense model's inputs too."""
        if self._module is None:
            # The walk prunes the block, and may ask for its inputs again.
            self._module = copy.deepcopy(block.module)
        for index, hidden in enumerate(self.hidden):
            with _inputs(block, self._module) as dense:
                self._after[index] = self._dense.run(block, self._module, index)
            with collector.batch(hidden.shape[0], hidden.shape[1], dense):
                self.run(block, block.module, index)

    def propagate(self, block: Block, collector: Collector | None = None) -> None:
        """As :meth:`States.propagate`, in both models."""
        super().propagate(block, collector)
        self._dense.hidden = [self._after[index] for index in range(len(self.hidden))]
        self._module = None


@contextmanager
def _inputs(block: Block, module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the block's linears, as they are in ``module``, are called with; by their names, without experts.

    The tokens that an expert sees in one model are not those that it sees in another.
    """
    found: dict[str, Tensor] = {}
    linears = [linear for linear in find_linears(module, block.name, block.index) if not linear.routed]
    with watched(linears, lambda linear, inputs, _: found.__setitem__(linear.name, inputs)):
        yield found
