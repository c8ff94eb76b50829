"""Statistics of the inputs of linears, collected by hooks while the blocks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

import trim_kernels
from trim_kernels.precision import full_float32

from ..errors import NOT_FINITE_FIX, TrimPruneError
from ..factor import Factor, factorise
from ..models.discover import Linear

Need = Literal["column_energy", "drift", "gram", "output_gradient", "search_inputs"]
"""What a method reads: of the inputs of a linear, all but ``output_gradient``, which a row request has."""
Clock = Callable[[], AbstractContextManager[None]]


class LinearStatistics:
    """What was measured at the input of one linear (or of several that get the very same input).

    Only what was asked for is there; reading anything else is a programming error of a plug-in that did not
    declare its needs.
    """

    def __init__(self) -> None:
        self.sequences = 0
        self.tokens = 0
        self._energy: Tensor | None = None
        self._gram: Tensor | None = None
        self._drift: Tensor | None = None
        self._inputs: list[Tensor] = []
        self._factors: dict[float | None, Factor] = {}

    @property
    def column_energy(self) -> Tensor:
        """float64 [C]: sum of x_j^2 over all tokens of all sequences."""
        if self._energy is None:
            raise RuntimeError("column_energy was not collected: declare it in needs")
        return self._energy

    @property
    def search_inputs(self) -> Tensor:
        """[C, N], in the dtype of the model: the input vectors that a row search looks at, one per column."""
        if not self._inputs:
            raise RuntimeError("search_inputs was not collected: declare it in needs")
        return torch.cat(self._inputs).t().contiguous()

    @cached_property
    def gram(self) -> Tensor:
        """float32 [C, C], symmetric: sum of x x^T over all tokens of all sequences."""
        if self._gram is None:
            raise RuntimeError("gram was not collected: declare it in needs")
        self._gram += self._gram.tril(-1).t()
        return self._gram

    @property
    def drift(self) -> Tensor:
        """float32 [C, C]: sum of (x_dense - x) x^T over all tokens, x_dense being the input in the dense model."""
        if self._drift is None:
            raise RuntimeError("drift was not collected: declare it in needs")
        return self._drift

    def factor(self, damping: float | None) -> Factor:
        """The factor of the inverse of the damped Gram matrix that optimal-brain-surgeon scores and updates share."""
        if damping not in self._factors:
            self._factors[damping] = factorise(self.gram, self.tokens, damping)
        return self._factors[damping]

    @property
    def steps(self) -> tuple[str, ...]:
        """What the factorisation had to fall back to; empty if nothing asked for it."""
        return tuple(step for factor in self._factors.values() for step in factor.steps)

    def add(
        self, inputs: Tensor, needs: frozenset[Need], positions: Sequence[int], dense: Tensor | None = None
    ) -> None:
        """Add the inputs [sequences, tokens, C] of one batch; ``dense``: those of the dense model, for the drift."""
        self.sequences += inputs.shape[0]
        self.tokens += inputs.shape[0] * inputs.shape[1]
        columns, device = inputs.shape[-1], inputs.device
        # One sum per sequence, added in order: the result does not depend on the batch size.
        if "column_energy" in needs:
            if self._energy is None:
                self._energy = torch.zeros(columns, dtype=torch.float64, device=device)
            for sequence in inputs:
                trim_kernels.column_sqnorm_(self._energy, sequence)
        if "gram" in needs:
            if self._gram is None:
                self._gram = torch.zeros(columns, columns, device=device)
            for sequence in inputs:
                trim_kernels.gram_(self._gram, sequence)
        if "drift" in needs and dense is not None:
            if self._drift is None:
                self._drift = torch.zeros(columns, columns, device=device)
            with full_float32(device):
                for sequence, wanted in zip(inputs.float(), dense.float(), strict=True):
                    self._drift.addmm_((wanted - sequence).t(), sequence)
        if "search_inputs" in needs:
            self._inputs.append(inputs[:, list(positions)].flatten(0, 1))

    def is_finite(self) -> bool:
        """Whether everything collected is free of NaN and infinity."""
        parts = [part for part in (self._energy, self._gram, self._drift, *self._inputs) if part is not None]
        return all(bool(torch.isfinite(part).all()) for part in parts)


def search_positions(seqlen: int, tokens_per_sequence: int) -> list[int]:
    """Evenly spaced token positions, the last of which is the last token."""
    return [(k + 1) * seqlen // tokens_per_sequence - 1 for k in range(tokens_per_sequence)]


class Collector:
    """Collects the statistics of some linears of one block while it runs, batch after batch.

    Linears that are handed the very same tensor (query, key and value; gate and up) share one statistics object.
    """

    def __init__(
        self, linears: Sequence[Linear], needs: frozenset[Need], tokens_per_sequence: int, clock: Clock
    ) -> None:
        self.linears, self.needs, self.tokens_per_sequence, self.clock = (
            linears,
            needs,
            tokens_per_sequence,
            clock,
        )
        self._found: dict[Linear, LinearStatistics] = {}
        self._last_input: Tensor | None = None
        self._last_statistics: LinearStatistics | None = None
        self._batch_shape: tuple[int, int] = (0, 0)
        self._dense: Mapping[str, Tensor] = {}

    @contextmanager
    def batch(self, sequences: int, tokens: int, dense: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Hooks are in place inside this context, for one forward of [sequences, tokens].

        ``dense``: the inputs of the linears, by name, in the dense model.
        """
        self._batch_shape, self._dense = (sequences, tokens), dense or {}
        handles = [linear.module.register_forward_pre_hook(self._hook(linear)) for linear in self.linears]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._last_input = self._last_statistics = None
            self._dense = {}

    def reset(self) -> None:
        """Forget everything, to begin anew."""
        self._found.clear()

    def groups(self) -> list[list[Linear]]:
        """The linears in the order in which they ran, those with a shared input together."""
        groups: dict[int, list[Linear]] = {}
        for linear, statistics in self._found.items():
            groups.setdefault(id(statistics), []).append(linear)
        return list(groups.values())

    def statistics(self, linear: Linear) -> LinearStatistics:
        """The statistics of one linear; an error names it if it never ran or saw NaN or infinity."""
        if linear not in self._found:
            raise TrimPruneError(
                "a linear got no calibration input: its block did not call it",
                where=f"block {linear.block}, {linear.name}",
                fix="use more or other calibration text (experts of a mixture may see no token of a short one)",
            )
        found = self._found[linear]
        if not found.is_finite():
            raise TrimPruneError(
                "NaN or infinity in the inputs of a linear",
                where=f"block {linear.block}, {linear.name}",
                fix=NOT_FINITE_FIX,
            )
        return found

    def _hook(self, linear: Linear) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            with self.clock():
                self._collect(linear, args[0])

        return hook

    def _collect(self, linear: Linear, inputs: Tensor) -> None:
        shared = inputs is self._last_input
        mine = self._found.get(linear)
        if mine is None:
            mine = self._last_statistics if shared and self._last_statistics else LinearStatistics()
            self._found[linear] = mine
        elif shared != (mine is self._last_statistics):
            raise TrimPruneError(
                "a linear shares its input with another one in some batches only",
                where=f"block {linear.block}, {linear.name}",
            )
        if not shared:
            dense = self._dense.get(linear.name)
            mine.add(
                self._per_sequence(linear, inputs),
                self.needs,
                self._positions(),
                None if dense is None else self._per_sequence(linear, dense),
            )
        self._last_input, self._last_statistics = inputs, mine

    def _per_sequence(self, linear: Linear, inputs: Tensor) -> Tensor:
        # Some models flatten [sequences, tokens, C] before their feed-forward part.
        if inputs.numel() != self._batch_shape[0] * self._batch_shape[1] * inputs.shape[-1]:
            raise TrimPruneError(
                "a linear sees only some of the tokens",
                where=f"block {linear.block}, {linear.name}",
                expected=f"{self._batch_shape[0]} x {self._batch_shape[1]} input vectors",
                got=f"an input of shape {tuple(inputs.shape)}",
            )
        return inputs.reshape(*self._batch_shape, inputs.shape[-1])

    def _positions(self) -> list[int]:
        return search_positions(self._batch_shape[1], self.tokens_per_sequence)
