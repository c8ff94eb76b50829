"""Hidden states on their way: those of the next batch travel to the device while it works on the ones before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Arrive = Callable[[], Tensor]


class Lane:
    """Copies between a device and memory; on a CPU there is no way, and nothing travels."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def fetch(self, tensor: Tensor) -> Arrive:
        """Begin to bring a tensor to the device; what is returned gives it there."""
        return lambda: tensor.to(self.device)

    def store(self, tensor: Tensor) -> Tensor:
        """Begin to bring a tensor of the device into memory; only :meth:`fetch` may read it before :meth:`finish`."""
        return tensor.to("cpu")

    def finish(self) -> None:
        """Wait until all that was stored has arrived."""


class StreamLane(Lane):
    """A stream of its own for a GPU's copies, which pass beside its computing if they are to or from pinned memory.

    They keep their order, so what is stored can be fetched again at once.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def fetch(self, tensor: Tensor) -> Arrive:
        """See :class:`Lane`."""
        if tensor.device == self.device:
            return lambda: tensor
        with torch.cuda.stream(self._stream):
            there = tensor.to(self.device, non_blocking=True)
            done = self._stream.record_event()

        def arrive() -> Tensor:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            # The memory is the other stream's, which may not have it back before this one is done with it.
            there.record_stream(current)
            return there

        return arrive

    def store(self, tensor: Tensor) -> Tensor:
        """See :class:`Lane`."""
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            kept.copy_(tensor, non_blocking=True)
        if tensor.device == self.device:
            tensor.record_stream(self._stream)
        return kept

    def finish(self) -> None:
        """See :class:`Lane`."""
        self._stream.synchronize()


@cache
def lane_of(device: torch.device) -> Lane:
    """The way to a device."""
    return StreamLane(device) if device.type == "cuda" else Lane(device)


class Ahead:
    """Hands out the tensors of a list on a device, and has the one after the last one on its way."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._following: tuple[Tensor, Arrive] | None = None

    def take(self, tensors: Sequence[Tensor], index: int) -> Tensor:
        """The tensor of that index, on the device."""
        following, self._following = self._following, None
        # The list may have changed since.
        known = following is not None and following[0] is tensors[index]
        arrive = following[1] if known and following is not None else self.lane.fetch(tensors[index])
        found = arrive()
        if index + 1 < len(tensors):
            self._following = tensors[index + 1], self.lane.fetch(tensors[index + 1])
        return found
