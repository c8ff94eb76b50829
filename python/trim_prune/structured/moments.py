"""First and second moments of what enters the consumer of a part, streamed batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

import trim_kernels
from trim_kernels.precision import full_float32

from ..errors import NOT_FINITE_FIX, TrimPruneError
from ..states import States
from .parts import Part


class Moments:
    """Mean and covariance of vectors [C]. No more than one batch of them is held at a time.

    The vectors are shifted by the mean of the first sequence, which is near the mean of all: float32 sums of the
    shifted products then lose nothing to a mean that is large beside the spread.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._shift = self._sum = self._gram = torch.empty(0)

    def add(self, inputs: Tensor) -> None:
        """Add the vectors [sequences, tokens, C] of a batch; the result does not depend on how they are batched."""
        for sequence in inputs:
            vectors = sequence.float()
            if self.tokens == 0:
                columns, device = vectors.shape[1], vectors.device
                self._shift = vectors.mean(dim=0)
                self._sum = torch.zeros(columns, dtype=torch.float64, device=device)
                self._gram = torch.zeros(columns, columns, device=device)
            vectors = vectors - self._shift
            self.tokens += len(vectors)
            self._sum += vectors.sum(dim=0, dtype=torch.float64)
            trim_kernels.gram_(self._gram, vectors)

    @property
    def mean(self) -> Tensor:
        """float64 [C]"""
        return self._shift.double() + self._sum / self.tokens

    def covariance(self, dtype: torch.dtype) -> Tensor:
        """[C, C], symmetric: the mean of (x - mean) (x - mean)^T."""
        lower = self._gram.to(dtype) / self.tokens
        offset = (self._sum / self.tokens).to(dtype)
        lower.addr_(offset, offset, alpha=-1)
        return lower.tril_() + lower.tril(-1).mT

    def is_finite(self) -> bool:
        """Whether no vector held NaN or infinity."""
        return bool(torch.isfinite(self._gram.diagonal()).all() and torch.isfinite(self._sum).all())


class _ReachedError(Exception):
    """Ends the forward of a block at the consumer: what comes after it is not needed."""


def measure(states: States, part: Part) -> tuple[Moments, Tensor]:
    """What enters the consumer, and float64 [D]: the sum of squares of what enters the producers.

    The block runs up to the consumer, on every batch, as it is now.
    """
    moments, first = Moments(), part.linear(part.producers[0].name)
    energy = torch.zeros(first.in_features, dtype=torch.float64, device=states.device)
    for index, hidden in enumerate(states.hidden):
        with _hooks(part, moments, energy, (hidden.shape[0], hidden.shape[1])), suppress(_ReachedError):
            states.run(part.block, part.block.module, index)
    if not moments.tokens:
        raise TrimPruneError("a linear got no calibration input: its block did not call it", where=part.where)
    if not moments.is_finite() or not torch.isfinite(energy).all():
        raise TrimPruneError("NaN or infinity in the inputs of a linear", where=part.where, fix=NOT_FINITE_FIX)
    return moments, energy


@contextmanager
def _hooks(part: Part, moments: Moments, energy: Tensor, shape: tuple[int, int]) -> Iterator[None]:
    def at_producer(_: Any, args: tuple[Any, ...]) -> None:
        trim_kernels.column_sqnorm_(energy, args[0].flatten(0, -2))

    def at_consumer(_: Any, args: tuple[Any, ...]) -> None:
        # Some models flatten [sequences, tokens, C] before their feed-forward part.
        with full_float32(args[0].device):
            moments.add(args[0].reshape(*shape, args[0].shape[-1]))
        raise _ReachedError

    handles = [
        part.linear(part.producers[0].name).register_forward_pre_hook(at_producer),
        part.linear(part.consumer).register_forward_pre_hook(at_consumer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
