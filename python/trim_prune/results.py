"""What a prune returns: figures per linear and for the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from .memory import PeakMemory
from .recipe import Recipe


@dataclass(frozen=True)
class LinearResult:
    """One pruned linear.

    ``prune_count`` weights were set to zero, from ``row_min`` to ``row_max`` a row. ``kept_zeros`` more are zero
    because they were so before and did not have to go: they count as kept, here and in the masks. Qualities are those
    of the row search; None where rows need no search. ``steps``: what was done in place of what failed or was missing,
    in order; empty when all went as asked. ``pattern``: what every group of columns keeps, in words, if there is one.
    ``permuted``: the share of the scores that it keeps, before and after the columns were reordered; None if they were
    not. ``output_error``: the energy of what the prune changed in the outputs, relative to that of the outputs before
    it; None where nothing that was collected tells it. ``tokens``: how many input vectors were measured; None if none
    were needed. ``weight``: the name of the parameter that holds the weight.
    """

    name: str
    weight: str
    block: int
    shape: tuple[int, int]
    prune_count: int
    row_min: int
    row_max: int
    kept_zeros: int
    quality: float | None
    baseline_quality: float | None
    learning_rate: float | None
    iteration: int | None
    output_error: float | None
    seconds: float
    steps: tuple[str, ...] = ()
    pattern: str | None = None
    permuted: tuple[float, float] | None = None
    tokens: int | None = None

    @property
    def sparsity(self) -> float:
        """Share of the weights that were pruned."""
        return self.prune_count / (self.shape[0] * self.shape[1])


@dataclass(frozen=True)
class Sparsity:
    """Exact counts, and the three usual figures made of them."""

    pruned: int
    prunable_weights: int
    non_embedding_parameters: int
    all_parameters: int

    @property
    def of_prunable(self) -> float:
        """Pruned share of the weights of the linears in the blocks: the figure that was asked for."""
        return self.pruned / self.prunable_weights

    @property
    def of_non_embedding(self) -> float:
        """Pruned share of all parameters but the embeddings and the output head."""
        return self.pruned / self.non_embedding_parameters

    @property
    def of_all(self) -> float:
        """Pruned share of all parameters, tied ones counted once."""
        return self.pruned / self.all_parameters


@dataclass(frozen=True)
class PruneResult:
    """The outcome of a prune: the pruned model, what was done to it, and where it was written.

    ``masks``: per parameter with pruned weights, by its name, in its shape but for the last dimension: uint8
    [..., ceil(C/8)], bit 1 = kept, little bit order. If there is an output folder, those of the tensors in its files,
    read when they are asked for. ``timings``: seconds by phase.
    """

    recipe: Recipe
    sparsity: Sparsity
    linears: list[LinearResult]
    masks: Mapping[str, Tensor] = field(repr=False)
    sample_ids: list[int]
    timings: dict[str, float]
    memory: PeakMemory
    warnings: list[str]
    out: Path | None
    load: Callable[[], nn.Module] = field(repr=False)

    @cached_property
    def model(self) -> nn.Module:
        """The pruned model: the one that was given, or what is in the output folder, loaded when it is asked for."""
        return self.load()
