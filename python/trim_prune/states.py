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
from .digest import described
from .models.capture import Call, Captured
from .models.discover import Block, find_linears
from .models.watch import watched
from .transfers import Ahead, lane_of

Recall = Callable[[Sequence[int]], list[tuple[Call, ...]]]


class States:
    """Runs one block at a time on every batch: ``hidden[i]`` is what enters it, ``calls[i]`` its other arguments.

    ``keep``: puts an output where it waits for the next block; None: where the input waited. ``recall(sizes)``: the
    calls of batches of so many sequences; where there is one, batches that do not fit on the device are halved.
    ``groups``: the group that each sequence belongs to; None: all to one. No batch has sequences of two.
    """

    def __init__(
        self,
        captured: Sequence[Captured],
        device: torch.device,
        keep: Keep | None = None,
        recall: Recall | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.device, self.keep, self.recall = device, keep, recall
        self._lane = lane_of(device)
        self._ahead = Ahead(self._lane)
        self.hidden = [batch.hidden for batch in captured]
        self.calls: list[tuple[Call, ...]] = [batch.calls for batch in captured]
        self.groups = groups

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

    def sequences(self) -> list[Tensor]:
        """All there is to go on from here with: the hidden states of each sequence."""
        return [sequence for hidden in self.hidden for sequence in hidden]

    def descriptions(self) -> list[str]:
        """What is told of each of them, to know them again; see :func:`trim_prune.digest.checksum`."""
        return list(map(described, self.sequences()))

    def restore(self, sequences: Sequence[Tensor]) -> None:
        """Go on with what :meth:`sequences` gave to another run, whatever its batches were."""
        left = iter(sequences)
        self.hidden = [self._kept(torch.stack([next(left) for _ in hidden]), hidden) for hidden in self.hidden]

    def replay(self, block: Block, load: Callable[[], None]) -> None:
        """Go through a block that was pruned before; ``load`` gives it the weights that it had then."""
        load()
        self.propagate(block)

    def twin(self) -> States:
        """Plain states of their own at the same block, for a walk that leaves these as they are."""
        twin = States([], self.device, self.keep, self.recall)
        twin.hidden, twin.calls, twin.groups = list(self.hidden), self.calls, self.groups
        return twin

    def run(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """The output for one batch, on the device."""
        entering = self._ahead.take(self.hidden, index)
        return self.calls[index][block.index].run(module, entering, self.device)

    def output(self, block: Block, module: nn.Module, index: int) -> Tensor:
        """As :meth:`run`, where hidden states wait; it may still be on its way there, see ``transfers``."""
        return self._kept(self.run(block, module, index), self.hidden[index])

    def _collect(self, block: Block, collector: Collector, index: int) -> None:
        sequences, tokens = self.hidden[index].shape[:2]
        with collector.batch(sequences, tokens, group=self._group(index)):
            self.run(block, block.module, index)

    def _propagate(self, block: Block, collector: Collector | None, index: int) -> None:
        sequences, tokens = self.hidden[index].shape[:2]
        with collector.batch(sequences, tokens, group=self._group(index)) if collector else nullcontext():
            self.hidden[index] = self.output(block, block.module, index)

    def _group(self, index: int) -> int:
        return 0 if self.groups is None else self.groups[sum(map(len, self.hidden[:index]))]

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
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__(captured, device, keep, recall, groups)
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
        with collector.batch(sequences, tokens, dense, group=self._group(index)):
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

    def sequences(self) -> list[Tensor]:
        """See :meth:`States.sequences`; those of both models side by side."""
        both = zip(super().sequences(), self._dense.sequences(), strict=True)
        return [hidden for pair in both for hidden in pair]

    def restore(self, sequences: Sequence[Tensor]) -> None:
        """See :meth:`States.restore`."""
        super().restore(sequences[::2])
        self._dense.restore(sequences[1::2])

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
