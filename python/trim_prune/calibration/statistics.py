"""Statistics of the inputs of linears, collected while the blocks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

import trim_kernels
from trim_kernels.precision import full_float32

from ..errors import NOT_FINITE_FIX, TrimPruneError
from ..factor import Factor, factorise
from ..models.discover import Linear
from ..models.watch import watched
from ..team import OrderedSum

Need = Literal["column_energy", "drift", "gram", "output_gradient", "search_inputs"]
"""What a method reads: of the inputs of a linear, all but ``output_gradient``, which a row request has."""
Clock = Callable[[], AbstractContextManager[None]]
UNSEEN = "no token reached the expert: its inputs count as white noise"
UNSEEN_VECTORS = 64
SUMS: dict[Need, torch.dtype] = {"column_energy": torch.float64, "gram": torch.float32, "drift": torch.float32}
"""What is added up over the groups of sequences, and in which type."""


class LinearStatistics:
    """What was measured at the input of one linear (or of several that get the very same input).

    Only what was asked for is there; reading anything else is a programming error of a plug-in that did not
    declare its needs.
    """

    def __init__(self) -> None:
        self.sequences = 0
        self.tokens = 0
        self.sums: dict[Need, OrderedSum] = {}
        self.inputs: list[Tensor] = []
        self._factors: dict[float | None, Factor] = {}
        self._notes: tuple[str, ...] = ()

    @classmethod
    def unseen(cls, linear: Linear, needs: frozenset[Need]) -> LinearStatistics:
        """Of an expert that no token reached: as of white noise, under which weights count by their magnitude."""
        weight, found = linear.weight, cls()
        columns, device = weight.shape[1], weight.device
        found._notes, found.sequences, found.tokens = (UNSEEN,), 1, columns
        if "column_energy" in needs:
            energy = torch.ones(columns, dtype=torch.float64, device=device)
            found.sums["column_energy"] = OrderedSum({(0, 0): energy})
        if "gram" in needs:
            found.sums["gram"] = OrderedSum({(0, 0): torch.eye(columns, device=device)})
        if "search_inputs" in needs:
            noise = torch.randn(UNSEEN_VECTORS, columns, generator=torch.Generator().manual_seed(0))
            found.inputs = [noise.to(device, weight.dtype)]
        return found

    @property
    def column_energy(self) -> Tensor:
        """float64 [C]: sum of x_j^2 over all tokens of all sequences."""
        return self._total("column_energy")

    @property
    def search_inputs(self) -> Tensor:
        """[C, N], in the dtype of the model: the input vectors that a row search looks at, one per column."""
        if not self.inputs:
            raise RuntimeError("search_inputs was not collected: declare it in needs")
        return torch.cat(self.inputs).t().contiguous()

    @cached_property
    def gram(self) -> Tensor:
        """float32 [C, C], symmetric: sum of x x^T over all tokens of all sequences."""
        gram = self._total("gram")
        gram += gram.tril(-1).t()
        return gram

    @property
    def drift(self) -> Tensor:
        """float32 [C, C]: sum of (x_dense - x) x^T over all tokens, x_dense being the input in the dense model."""
        return self._total("drift")

    def _total(self, need: Need) -> Tensor:
        total = self.sums[need].total() if need in self.sums else None
        if total is None:
            raise RuntimeError(f"{need} was not collected: declare it in needs")
        return total

    def factor(self, damping: float | None) -> Factor:
        """The factor of the inverse of the damped Gram matrix that optimal-brain-surgeon scores and updates share."""
        if damping not in self._factors:
            self._factors[damping] = factorise(self.gram, self.tokens, damping)
        return self._factors[damping]

    @property
    def steps(self) -> tuple[str, ...]:
        """What was done in place of what is not there or failed; empty if nothing was missing."""
        return (*self._notes, *(step for factor in self._factors.values() for step in factor.steps))

    def add(
        self,
        inputs: Tensor,
        needs: frozenset[Need],
        positions: Sequence[int],
        dense: Tensor | None = None,
        group: int = 0,
    ) -> None:
        """Add the inputs [sequences, tokens, C] of one batch; ``dense``: those of the dense model, for the drift.

        ``group``: that of the sequences, not below that of those before; all of a linear alone may be one.
        """
        self.sequences += inputs.shape[0]
        self.tokens += inputs.shape[0] * inputs.shape[1]
        # One sum per sequence, added in order: the result does not depend on the batch size.
        if "column_energy" in needs:
            energy = self._part("column_energy", group, inputs)
            for sequence in inputs:
                trim_kernels.column_sqnorm_(energy, sequence)
        if "gram" in needs:
            gram = self._part("gram", group, inputs)
            for sequence in inputs:
                trim_kernels.gram_(gram, sequence)
        if "drift" in needs and dense is not None:
            drift = self._part("drift", group, inputs)
            with full_float32(inputs.device):
                for sequence, wanted in zip(inputs.float(), dense.float(), strict=True):
                    drift.addmm_((wanted - sequence).t(), sequence)
        if "search_inputs" in needs:
            self.inputs.append(inputs[:, list(positions)].flatten(0, 1))

    def _part(self, need: Need, group: int, inputs: Tensor) -> Tensor:
        """What sequences of a group are added to."""
        shape = sum_shape(need, inputs.shape[-1])
        make = partial(torch.zeros, shape, dtype=SUMS[need], device=inputs.device)
        return self.sums.setdefault(need, OrderedSum()).part(group, make)

    def is_finite(self) -> bool:
        """Whether everything collected is free of NaN and infinity."""
        parts = [*map(self._total, self.sums), *self.inputs]
        return all(bool(torch.isfinite(part).all()) for part in parts)


def sum_shape(need: Need, columns: int) -> tuple[int, ...]:
    """The shape of what is added up for inputs with so many columns."""
    return (columns,) if need == "column_energy" else (columns, columns)


def search_positions(seqlen: int, tokens_per_sequence: int) -> list[int]:
    """Evenly spaced token positions, the last of which is the last token; all of them where there are not as many."""
    count = min(tokens_per_sequence, seqlen)
    return [(k + 1) * seqlen // count - 1 for k in range(count)]


def without_padding(inputs: Tensor, token_mask: Tensor | None) -> list[Tensor]:
    """Inputs [sequences, tokens, C] in parts [sequences, tokens, C] that hold no padding.

    ``token_mask``: bool [sequences, tokens], True for the tokens that are not padding; None: all of them.
    """
    if token_mask is None:
        return [inputs]
    mask = token_mask.to(inputs.device)
    return [sequence[real][None] for sequence, real in zip(inputs, mask, strict=True) if real.any()]


class Collector:
    """Collects the statistics of some linears of one block while it runs, batch after batch.

    Linears that are handed the very same tensor (query, key and value; gate and up) share one statistics object.
    ``found``: those of the linears that ran, in the order in which they first did; ``sequences``: how many were seen.
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
        self.found: dict[Linear, LinearStatistics] = {}
        self._last_input: Tensor | None = None
        self._last_statistics: LinearStatistics | None = None
        self._batch_shape: tuple[int, int] = (0, 0)
        self._token_mask: Tensor | None = None
        self._dense: Mapping[str, Tensor] = {}
        self._group = 0
        self.sequences = 0

    @contextmanager
    def batch(
        self,
        sequences: int,
        tokens: int,
        dense: Mapping[str, Tensor] | None = None,
        token_mask: Tensor | None = None,
        group: int = 0,
    ) -> Iterator[None]:
        """Products of the linears are watched inside this context, for one forward of [sequences, tokens].

        ``dense``: the inputs of the linears, by name, in the dense model. ``token_mask``: bool [sequences, tokens],
        True for the tokens that are not padding; None: all of them. ``group``: that of the sequences, not below that of
        those before.
        """
        self._batch_shape, self._token_mask, self._dense = (sequences, tokens), token_mask, dense or {}
        self._group = group
        self.sequences += sequences
        try:
            with watched(self.linears, self._on_product):
                yield
        finally:
            self._last_input = self._last_statistics = None
            self._token_mask, self._dense = None, {}

    def reset(self) -> None:
        """Forget everything, to begin anew."""
        self.found.clear()
        self.sequences = 0

    def groups(self) -> list[list[Linear]]:
        """The linears in the order in which they ran, those with a shared input together, and so those of experts."""
        groups: dict[int | str, list[Linear]] = {}
        for linear, statistics in self.found.items():
            groups.setdefault(_role(linear) if linear.routed else id(statistics), []).append(linear)
        return list(groups.values())

    def statistics(self, linear: Linear) -> LinearStatistics:
        """The statistics of one linear; an error names it if it never ran or saw NaN or infinity.

        An expert that no token reached, while tokens reached others, has those of white noise.
        """
        if linear not in self.found:
            if linear.routed and any(other.routed and _role(other) == _role(linear) for other in self.found):
                return LinearStatistics.unseen(linear, self.needs)
            raise TrimPruneError(
                "a linear got no calibration input: its block did not call it",
                where=f"block {linear.block}, {linear.name}",
                expected="a product with its weight: linear, matmul, mm or addmm",
                fix="use other calibration text, if the block calls it for some tokens only",
            )
        found = self.found[linear]
        if not found.is_finite():
            raise TrimPruneError(
                "NaN or infinity in the inputs of a linear",
                where=f"block {linear.block}, {linear.name}",
                fix=NOT_FINITE_FIX,
            )
        if linear.routed:
            # A sequence of which an expert sees nothing counts too.
            found.sequences = self.sequences
        return found

    def _on_product(self, linear: Linear, inputs: Tensor, _: Tensor) -> None:
        with self.clock():
            self._collect(linear, inputs)

    def _collect(self, linear: Linear, inputs: Tensor) -> None:
        shared = inputs is self._last_input
        mine = self.found.get(linear)
        if mine is None:
            mine = self._last_statistics if shared and self._last_statistics else LinearStatistics()
            self.found[linear] = mine
        elif shared != (mine is self._last_statistics):
            raise shared_at_times(linear)
        if not shared:
            dense = self._dense.get(linear.name)
            parts = self._sequences_of(linear, inputs)
            others = [None] * len(parts) if dense is None else self._sequences_of(linear, dense)
            for part, other in zip(parts, others, strict=True):
                positions = search_positions(part.shape[1], self.tokens_per_sequence)
                mine.add(part, self.needs, positions, other, self._group)
        self._last_input, self._last_statistics = inputs, mine

    def _sequences_of(self, linear: Linear, inputs: Tensor) -> list[Tensor]:
        """The input vectors as [sequences, tokens, C], in parts of as many tokens in each sequence; no padding."""
        sequences, tokens = self._batch_shape
        # Some models flatten [sequences, tokens, C] before their feed-forward part, and experts see some tokens only.
        if inputs.numel() != sequences * tokens * inputs.shape[-1]:
            if self._token_mask is not None:
                raise TrimPruneError(
                    "a linear sees only some of the tokens, and which of them are padding is not known",
                    where=f"block {linear.block}, {linear.name}",
                    expected=f"{sequences} x {tokens} input vectors",
                    got=f"an input of shape {tuple(inputs.shape)}",
                    fix="run one sequence at a time, without padding",
                )
            return [inputs.reshape(1, -1, inputs.shape[-1])]
        whole = inputs.reshape(sequences, tokens, inputs.shape[-1])
        return without_padding(whole, self._token_mask)


def shared_at_times(linear: Linear) -> TrimPruneError:
    """The error of a linear that cannot have statistics of its own, nor those of another one."""
    return TrimPruneError(
        "a linear shares its input with another one in some batches only",
        where=f"block {linear.block}, {linear.name}",
    )


def _role(linear: Linear) -> str:
    """What a linear is to its expert: the last part of its name."""
    return linear.name.rpartition(".")[2]
