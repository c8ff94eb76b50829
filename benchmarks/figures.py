"""What a measurement says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One operation, backend and matrix. Times in milliseconds, ratios above 1 mean faster than the other."""

    op: str
    variant: str
    backend: str
    linear: str
    rows: int
    columns: int
    dtype: str
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

    @property
    def key(self) -> tuple[object, ...]:
        """What it is a figure of."""
        return (self.op, self.variant, self.backend, self.rows, self.columns, self.dtype)


@dataclass(frozen=True)
class Missing:
    """What was asked for and has no figure, and why."""

    op: str
    variant: str
    backend: str
    linear: str
    rows: int
    columns: int
    dtype: str
    why: str
    wrong: bool
    """Whether a result did not pass its check."""

    @property
    def key(self) -> tuple[object, ...]:
        """What it would be a figure of."""
        return (self.op, self.variant, self.backend, self.rows, self.columns, self.dtype)
