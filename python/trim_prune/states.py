"""The hidden states of all calibration batches, at the block that the walk has reached."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .activations import Keep
from .calibration.statistics import Collector
from .models.capture import Call, Captured
from .models.discover import Block


class States:
    """Runs one block at a time on every batch: ``hidden[i]`` is what enters it, ``calls[i]`` its other arguments.

    ``keep``: puts an output where it waits for the next block; None: where the input waited.
    """

    def __init__(self, captured: Sequence[Captured], device: torch.device, keep: Keep | None = None) -> None:
        self.device, self.keep = device, keep
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

    @property
    def kept_on_disk(self) -> bool:
        """Whether a file of the hidden states is worth its time to a run that may have to go on from here.

        On a CPU it is: the forwards through the blocks before take longer. On a GPU they are faster than the file.
        """
        return self.device.type == "cpu"

    def tensors(self) -> list[Tensor]:
        """All there is to go on from here with."""
        return self.hidden

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Go on with what :meth:`tensors` gave to another run."""
        self.hidden = [self._kept(tensor, hidden) for tensor, hidden in zip(tensors, self.hidden, strict=True)]

    def replay(self, block: Block, load: Callable[[], None]) -> None:
        """Go through a block that was pruned before; ``load`` gives it the weights that it had then."""
        load()
        self.propagate(block)

    def twin(self) -> States:
        """Plain states of their own at the same block, for a walk that leaves these as they are."""
        twin = States([], self.device, self.keep)
        twin.hidden, twin.calls = list(self.hidden), self.calls
        return twin

    def run(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """The output for one batch, where hidden states wait."""
        hidden = self.hidden[index]
        entering = hidden.to(self.device, non_blocking=True)
        return self._kept(self.calls[index][block.index].run(module, entering, self.device), hidden)

    def _kept(self, output: Tensor, hidden: Tensor) -> Tensor:
        return output.to(hidden.device) if self.keep is None else self.keep(output)


class PairedStates(States):
    """Beside the hidden states of the pruned model those of the dense one, to compare the inputs of linears."""

    def __init__(self, captured: Sequence[Captured], device: torch.device, keep: Keep | None = None) -> None:
        super().__init__(captured, device, keep)
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

    @property
    def kept_on_disk(self) -> bool:
        """Always: what a block was before its columns were reordered for the dense model is not known any more."""
        return True

    def tensors(self) -> list[Tensor]:
        """See :meth:`States.tensors`."""
        return self.hidden + self._dense.hidden

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """See :meth:`States.restore`."""
        super().restore(tensors[: len(self.hidden)])
        self._dense.restore(tensors[len(self.hidden) :])

    def replay(self, block: Block, load: Callable[[], None]) -> None:
        """See :meth:`States.replay`; the dense model's block is what is there before ``load``."""
        for index in range(len(self.hidden)):
            self._after[index] = self._dense.run(block, block.module, index)
        super().replay(block, load)


@contextmanager
def _inputs(block: Block, module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the block's linears, as they are in ``module``, are called with; by their names."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        return lambda _, args: found.__setitem__(name, args[0])

    handles = [
        module.get_submodule(linear.name.removeprefix(f"{block.name}.")).register_forward_pre_hook(hook(linear.name))
        for linear in block.linears
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
