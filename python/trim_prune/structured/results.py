"""What a structured prune returns: figures for each part and for the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..memory import PeakMemory
from .parts import Kind
from .recipe import StructuredRecipe


@dataclass(frozen=True)
class PartResult:
    """One part of a block. ``kept``: the units that stay, ascending, by their old numbers.

    ``repair``: "affine", "slope" (without an intercept), "full", or "none". ``error``: the mean square of what the
    part's output lacked on the calibration text as a share of its own, before and after the repair; None where nothing
    was measured. ``steps``: what a failed factorisation had to fall back to.
    """

    block: int
    kind: Kind
    units: int
    kept: tuple[int, ...]
    repair: str
    error: float | None
    repaired_error: float | None
    seconds: float
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameters:
    """Counts of all parameters, tied ones once: ``target`` is what was asked to stay, None if sizes said it.

    ``pruned``: those of the result; in masked mode as many as ``dense``, as what goes is zero, and still there.
    ``kept``: without those.
    """

    dense: int
    pruned: int
    target: int | None
    kept: int

    @property
    def share(self) -> float:
        """Share of the parameters that is kept."""
        return self.kept / self.dense


@dataclass(frozen=True)
class Speed:
    """Tokens per second of greedy decoding, one sequence, with the cache of keys and values, and where."""

    dense: float
    pruned: float
    device: str


@dataclass(frozen=True)
class Check:
    """What a fresh process found in the written folder, and how it loaded it.

    ``difference``: the largest of any logit from those in memory, as a share of the largest logit.
    """

    loaded_by: str
    parameters: int
    difference: float


@dataclass(frozen=True)
class StructuredResult:
    """The outcome of a structured prune: the model, smaller now, what went, and where it was written.

    ``cosines``: of the input and output of each block of the dense model; None unless the layers were found by them.
    ``check``: None unless a folder was written.
    """

    model: nn.Module = field(repr=False)
    recipe: StructuredRecipe
    parameters: Parameters
    parts: list[PartResult]
    cosines: list[float] | None
    speed: Speed
    check: Check | None
    sample_ids: list[int]
    timings: dict[str, float]
    memory: PeakMemory
    warnings: list[str]
    out: Path | None
