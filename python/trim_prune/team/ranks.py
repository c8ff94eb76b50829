"""A team of several processes, by torch.distributed.

Nothing is added up on the way: bytes are moved, and sums are made here, in their order. So what a backend can add, and
in which order it would, does not matter, and any type travels.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .sums import Node, OrderedSum
from .team import Part, RankError, Team

T = TypeVar("T")
Spec = tuple[str, list[int], str]
"""Type, shape and kind of device of a tensor."""


class Ranks(Team):
    """See :class:`Team`.

    Before tensors move, all ranks exchange what they are about to send, over connections between CPUs: these break at
    once when a process dies, whatever it was doing.
    """

    def __init__(self, device: torch.device, control: dist.ProcessGroup, data: dist.ProcessGroup) -> None:
        """``device``: of this rank. ``control`` moves tensors of the CPU, ``data`` those of the device."""
        self.device, self._control, self._data = device, control, data
        self.size, self.rank = control.size(), control.rank()
        self.on_machine = self.exchange(socket.gethostname()).count(socket.gethostname())

    def exchange(self, value: Any) -> list[Any]:
        """See :class:`Team`."""
        sent = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._all_alive():
            dist.all_gather(sizes, torch.tensor([len(sent)]), group=self._control)
        longest = max(int(size) for size in sizes)
        found = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        with self._all_alive():
            dist.all_gather(found, torch.cat([sent, sent.new_zeros(longest - len(sent))]), group=self._control)
        return [json.loads(bytes(text[: int(size)].numpy())) for text, size in zip(found, sizes, strict=True)]

    def lead(self, work: Callable[[], T]) -> T:
        """See :class:`Team`."""
        found: T = self.exchange(work() if self.first else None)[0]
        return found

    def divide(self, costs: Sequence[float], work: Callable[[int], Part]) -> list[Part]:
        """See :class:`Team`; the costliest parts are dealt out first, each to the rank with the least to do."""
        owners = dealt(costs, self.size)
        mine = {index: work(index) for index, owner in enumerate(owners) if owner == self.rank}
        told = self.exchange([[facts, [_spec(tensor) for tensor in tensors]] for facts, tensors in mine.values()])
        left, found = [iter(parts) for parts in told], []
        for index, owner in enumerate(owners):
            facts, specs = next(left[owner])
            own = mine[index][1] if owner == self.rank else [self._empty(spec) for spec in specs]
            found.append((facts, [self._broadcast(tensor, owner) for tensor in own]))
        return found

    def total(
        self,
        sums: OrderedSum,
        nodes: Sequence[Sequence[Node]],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> OrderedSum:
        """See :class:`Team`; each rank adds up a share of the elements, and gives it to the others."""
        nodes = [[(level, place) for level, place in own] for own in nodes]
        size = torch.Size(shape).numel()
        share = -(-size // self.size)
        own = nodes[self.rank]
        sent = torch.zeros(self.size, len(own), share, dtype=dtype, device=device)
        for number, node in enumerate(own):
            # A share at a time: the last one may be shorter.
            for rank, values in enumerate(torch.split(sums.nodes.pop(node).reshape(-1), share)):
                sent[rank, number, : len(values)] = values
        counts = [len(theirs) * share for theirs in nodes]
        got = torch.empty(sum(counts), dtype=dtype, device=device)
        width = dtype.itemsize
        with self._all_alive():
            dist.all_to_all_single(
                _bytes(got),
                _bytes(sent),
                [count * width for count in counts],
                [len(own) * share * width] * self.size,
                group=self._group(device),
            )
        parts = torch.split(got, share)
        summed = OrderedSum(dict(zip((node for theirs in nodes for node in theirs), parts, strict=True))).total()
        whole = torch.empty(self.size * share, dtype=dtype, device=device)
        assert summed is not None
        whole[self.rank * share :][:share] = summed
        for rank, values in enumerate(torch.split(whole, share)):
            self._broadcast(values, rank)
        return OrderedSum({(0, 0): whole[:size].view(*shape)})

    def everyones(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Team`."""
        told = self.exchange([_spec(tensor) for tensor in tensors])
        return [
            self._broadcast(tensor, rank)
            for rank, specs in enumerate(told)
            for tensor in (tensors if rank == self.rank else map(self._empty, specs))
        ]

    def to_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`Team`."""
        told = self.exchange([_spec(tensor) for tensor in tensors])
        if not self.first:
            for tensor in tensors:
                self._send(tensor, 0)
            return []
        theirs = [(rank, spec) for rank, specs in enumerate(told) if rank > 0 for spec in specs]
        return [*(tensor.cpu() for tensor in tensors), *(self._receive(spec, rank) for rank, spec in theirs)]

    def from_first(self, tensors: Sequence[Tensor], wanted: int) -> list[Tensor]:
        """See :class:`Team`."""
        counts = self.exchange(wanted)
        specs = self.exchange([_spec(tensor) for tensor in tensors])[0]
        start = sum(counts[: self.rank])
        if not self.first:
            return [self._receive(spec, 0) for spec in specs[start : start + wanted]]
        for rank in range(1, self.size):
            before = sum(counts[:rank])
            for tensor in tensors[before : before + counts[rank]]:
                self._send(tensor, rank)
        return list(tensors[:wanted])

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """See :class:`Team`."""
        self.exchange(None)
        for tensor in tensors:
            found = self._broadcast(tensor, 0)
            if found is not tensor:
                tensor.copy_(found)

    def _group(self, device: torch.device) -> dist.ProcessGroup:
        return self._control if device.type == "cpu" else self._data

    def _empty(self, spec: Spec) -> Tensor:
        dtype, shape, kind = spec
        return torch.empty(shape, dtype=getattr(torch, dtype), device="cpu" if kind == "cpu" else self.device)

    def _broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor with the values of that rank: itself, or a contiguous one in its place."""
        tensor = tensor.detach() if tensor.requires_grad else tensor
        whole = tensor.contiguous()
        with self._all_alive():
            if whole.numel():
                dist.broadcast(_bytes(whole), group=self._group(whole.device), group_src=source)
        return whole

    def _send(self, tensor: Tensor, rank: int) -> None:
        with self._all_alive():
            dist.send(_bytes(tensor.cpu()), group=self._control, group_dst=rank)

    def _receive(self, spec: Spec, rank: int) -> Tensor:
        found = torch.empty(spec[1], dtype=getattr(torch, spec[0]))
        with self._all_alive():
            dist.recv(_bytes(found), group=self._control, group_src=rank)
        return found

    @contextmanager
    def _all_alive(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise rank_lost(f"rank {self.rank} of {self.size} noticed it", str(error)) from error


def rank_lost(where: str, got: str) -> RankError:
    """The error of a rank that goes on no longer, as another one does not."""
    if signal.getsignal(signal.SIGTERM) is told_to_end:
        # Whoever starts ranks ends the others too; this one ends anyway, and has to put its things in order.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return RankError(
        "a rank of the run has ended, and so the run does",
        where=where,
        got=(got.splitlines() or [""])[0],
        fix="see what that rank and torchrun said; with --out the same command goes on from the last whole block",
    )


def told_to_end(number: int, _: Any) -> None:
    """A handler of SIGTERM, which torchrun sends to all ranks when one has ended."""
    raise rank_lost("this rank was told so", f"{signal.Signals(number).name}, as torchrun sends it")


def dealt(costs: Sequence[float], shares: int) -> list[int]:
    """Who does each part: the costliest first, to the one with the least to do."""
    owners, loads = [0] * len(costs), [0.0] * shares
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


def _spec(tensor: Tensor) -> Spec:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.device.type


def _bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor as bytes; a view."""
    return tensor.detach().reshape(-1).view(torch.uint8)
