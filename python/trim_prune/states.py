"""The hidden states of all calibration batches, at the block that the walk has reached."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from .activations import Keep
from .calibration.statistics import Collector
from .models.capture import Call, Captured
from .models.discover import Block, find_linears
from .models.watch import watched
from .transfers import Ahead, lane_of

Recall = Callable[[Sequence[int]], list[tuple[Call, ...]]]


class States:
    """Runs one block at a time on every batch: ``hidden[i]`` is what enters it, ``calls[i]`` its other arguments.

    ``keep``: puts an output where it waits for the next block; None: where the input waited. ``recall(sizes)``: the
    calls of batches of so many sequences; where there is one, batches that do not fit on the device are halved.
    """

    def __init__(
        self,
        captured: Sequence[Captured],
        device: torch.device,
        keep: Keep | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.device, self.keep, self.recall = device, keep, recall
        self._lane = lane_of(device)
        self._ahead = Ahead(self._lane)
        self.hidden = [batch.hidden for batch in captured]
        self.calls: list[tuple[Call, ...]] = [batch.calls for batch in captured]

    def collect(self, block: Block, collector: Collector) -> None:
        """Run a block on every batch for the sake of its hooks."""
        index = 0
        while index < len(self.hidden):
            if self._fits(partial(self._collect, block, collector, index)):
                index += 1
            else:
                # Some linears have seen this batch and others not.
                self._halve(0)
                collector.reset()
                index = 0

    def propagate(self, block: Block, collector: Collector | None = None) -> None:
        """Replace the hidden states by the block's output, for the sake of its hooks too if there is a collector."""
        index = 0
        while index < len(self.hidden):
            if self._fits(partial(self._propagate, block, collector, index), again=collector is None or index == 0):
                index += 1
            else:
                self._halve(index)
                if collector is not None:
                    collector.reset()
        self._lane.finish()

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
        twin = States([], self.device, self.keep, self.recall)
        twin.hidden, twin.calls = list(self.hidden), self.calls
        return twin

    def run(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """The output for one batch, on the device."""
        entering = self._ahead.take(self.hidden, index)
        return self.calls[index][block.index].run(module, entering, self.device)

    def output(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """As :meth:`run`, where hidden states wait; it may still be on its way there, see ``transfers``."""
        return self._kept(self.run(block, module, index), self.hidden[index])

    def _collect(self, block: Block, collector: Collector, index: int) -> None:
        with collector.batch(*self.hidden[index].shape[:2]):
            self.run(block, block.module, index)

    def _propagate(self, block: Block, collector: Collector | None, index: int) -> None:
        with collector.batch(*self.hidden[index].shape[:2]) if collector else nullcontext():
            self.hidden[index] = self.output(block, block.module, index)

    def _fits(self, forward: Callable[[], None], again: bool = True) -> bool:
        """Whether the device had the memory for it. Raises if it had not, and smaller batches would not help.

        Where it returns, nothing refers any more to what a failed forward had made.
        """
        able = again and self.recall is not None and max(len(hidden) for hidden in self.hidden) > 1
        try:
            forward()
        except torch.OutOfMemoryError:
            if not able:
                raise
            return False
        return True

    def _halve(self, first: int) -> None:
        """Halve the batches from one on."""
        assert self.recall is not None
        self.hidden = _halves(self.hidden, first)
        self.calls = self.recall([len(hidden) for hidden in self.hidden])

    def _kept(self, output: Tensor, hidden: Tensor) -> Tensor:
        return output.to(hidden.device) if self.keep is None else self.keep(output)


class PairedStates(States):
    """Beside the hidden states of the pruned model those of the dense one, to compare the inputs of linears."""

    def __init__(
        self,
        captured: Sequence[Captured],
        device: torch.device,
        keep: Keep | None = None,
        recall: Recall | None = None,
    ) -> None:
        super().__init__(captured, device, keep, recall)
        self._dense = self.twin()
        self._after: dict[int, Tensor] = {}
        self._module: nn.Module | None = None

    def collect(self, block: Block, collector: Collector) -> None:
        """As :meth:`States.collect`; the hooks see the dense model's inputs too."""
        if self._module is None:
            # The walk prunes the block, and may ask for its inputs again.
            self._module = copy.deepcopy(block.module)
        super().collect(block, collector)

    def propagate(self, block: Block, collector: Collector | None = None) -> None:
        """As :meth:`States.propagate`, in both models."""
        super().propagate(block, collector)
        self._dense.hidden = [self._after[index] for index in range(len(self.hidden))]
        self._module = None

    def _collect(self, block: Block, collector: Collector, index: int) -> None:
        assert self._module is not None
        with _inputs(block, self._module) as dense:
            self._after[index] = self._dense.output(block, self._module, index)
        sequences, tokens = self.hidden[index].shape[:2]
        with collector.batch(sequences, tokens, dense):
            self.run(block, block.module, index)

    def _halve(self, first: int) -> None:
        if len(self._after) == len(self.hidden):
            after = _halves([self._after[index] for index in range(len(self.hidden))], first)
            self._after = dict(enumerate(after))
        super()._halve(first)
        self._dense.hidden, self._dense.calls = _halves(self._dense.hidden, first), self.calls

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
            self._after[index] = self._dense.output(block, block.module, index)
        super().replay(block, load)


def _halves(tensors: Sequence[Tensor], first: int) -> list[Tensor]:
    return [
        *tensors[:first],
        *(half for tensor in tensors[first:] for half in torch.split(tensor, -(-len(tensor) // 2))),
    ]


@contextmanager
def _inputs(block: Block, module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the block's linears, as they are in ``module``, are called with; by their names, without experts.

    The tokens that an expert sees in one model are not those that it sees in another.
    """
    found: dict[str, Tensor] = {}
    linears = [linear for linear in find_linears(module, block.name, block.index) if not linear.routed]
    with watched(linears, lambda linear, inputs, _: found.__setitem__(linear.name, inputs)):
        yield found
