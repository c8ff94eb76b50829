"""What a measurement says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """What a measurement is of: an operation in one variant, a backend and a matrix."""

    op: str
    variant: str
    backend: str
    linear: str
    rows: int
    columns: int
    dtype: str

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        return (self.op, self.variant, self.backend, self.rows, self.columns, self.dtype)


@dataclass(frozen=True)
class Figure(Subject):
    """One operation, backend and matrix. Times in milliseconds, ratios above 1 mean faster than the other."""

    milliseconds: float
    milliseconds_20: float
    milliseconds_80: float
    rounds: int
    timing: str
    """"wall", device "events", or events around the replay of a CUDA "graph"."""
    gigabytes_per_second: float | None
    """Unavoidable bytes over time; where the operations take longer, ``teraflops`` is given instead."""
    teraflops: float | None
    floor_milliseconds: float
    percent_of_floor: float
    times_reference: float | None
    times_baseline: float | None
    baseline: str
    peak_bytes: int | None
    """Memory taken during the call, its result included."""


@dataclass(frozen=True)
class Missing(Subject):
    """What was asked for and has no figure, and why."""

    why: str
    wrong: bool
    """Whether a result did not pass its check."""
