"""What a case is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from benchmarks.problems import Problem
from benchmarks.shapes import Linear

P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class Case(Generic[P]):
    """One operation in one variant: how it is called, what stands for it in plain torch, the least work it takes."""

    op: str
    variant: str
    """Tells the cases of an operation apart, such as "packed"; may be empty."""
    problem: Callable[[Linear, torch.dtype, str], P]
    run: Callable[[P, str], object]
    """``run(problem, backend)``"""
    check: Callable[[object, object], None]
    """``check(result, expected)`` raises AssertionError."""
    bytes_moved: Callable[[P], float]
    """No implementation can read and write less."""
    operations: Callable[[P], float]
    """No implementation can do fewer."""
    baseline: Callable[[P], object] | None = None
    baseline_name: str = ""
    baseline_check: Callable[[object, object], None] | None = None
    """Instead of ``check``, where plain torch promises less."""
    in_place: bool = False
    waits: bool = False
    """The host always waits for the device at the end."""
    of_activations: bool = False
    """The rows of a linear do not matter: tokens take their place."""

    @property
    def name(self) -> str:
        """The operation and its variant."""
        return f"{self.op} {self.variant}".rstrip()

    def check_of(self, implementation: str) -> Callable[[object, object], None]:
        """What a result of a backend, or of the "baseline", has to pass."""
        return self.baseline_check or self.check if implementation == "baseline" else self.check
