"""Which implementation of an operator runs, and why.

``auto`` takes the first backend, fastest first, that supports the call. A backend that was asked for by name and cannot
run raises, and says why. ``TRIM_KERNELS_BACKEND`` replaces ``auto`` everywhere.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

ENVIRONMENT_VARIABLE = "TRIM_KERNELS_BACKEND"
MODULES = {"cuda": "cuda", "triton": "triton", "cpu": "native", "reference": "reference"}
"""Backends, fastest first, and the module in each op's folder that implements it."""

ON_GPU = ("cuda", "triton")
NOT_IN_CUDA = ("obs_update_", "row_error_curve", "pack_values", "unpack_values")
MAIN = {"column_sqnorm_": "x", "gram_": "x", "unpack_values": "values"}
"""The tensor by which a backend is chosen, where that is not the weight."""

SMALL = 4096
"""Values below which ``auto`` leaves a tensor on a GPU to plain torch: our kernels would not pay for their launch."""


@dataclass(frozen=True)
class Decision:
    """The backend that runs a call, and why each one before it does not."""

    op: str
    backend: str
    refusals: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.backend}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.refusals.items()]
        return "\n".join(lines)


def decide(op: str, requested: str, call: Mapping[str, Any]) -> Decision:
    """Choose for ``op``, whose arguments are ``call`` by name (a backend looks at the weight and a few options)."""
    if requested == "auto":
        requested = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if requested != "auto" and requested not in MODULES:
        *names, last = MODULES
        raise ValueError(f"backend: expected auto, {', '.join(names)} or {last}, got {requested!r}")
    refusals: dict[str, str] = {}
    for name in MODULES if requested == "auto" else (requested,):
        reason = _refusal(op, name, call)
        if reason is None and requested == "auto" and name in ON_GPU:
            reason = _too_small(op, call)
        if reason is None:
            return Decision(op, name, refusals)
        refusals[name] = reason
    raise ValueError(f"backend: {requested!r} cannot run {op}: {refusals[requested]}")


def implementation(op: str, requested: str, call: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that runs ``op`` on these arguments."""
    function: Callable[..., Any] = getattr(_module(op, decide(op, requested, call).backend), op)
    return function


def explain(op: str, tensor: Tensor, *, backend: str = "auto", **options: object) -> str:
    """Say which backend a call of ``op`` on ``tensor`` (its weight, x or values) runs on, and why not on a faster one.

    ``options`` are the call's keyword arguments; only allocate_rows' ``layer_metric`` matters to the choice today::

        print(trim_kernels.explain("row_mask", weight))
    """
    return str(decide(op, backend, {MAIN.get(op, "weight"): tensor, **options}))


def _refusal(op: str, backend: str, call: Mapping[str, Any]) -> str | None:
    if backend == "cuda" and op in NOT_IN_CUDA:
        return f"there is no CUDA kernel of {op}; Triton serves GPUs"
    reason: str | None = _module(op, backend).refusal(call)
    return reason


def _too_small(op: str, call: Mapping[str, Any]) -> str | None:
    """Why a GPU's kernels are not worth their launch; a search, which takes hundreds without them, always is."""
    small = op != "allocate_rows" and call[MAIN.get(op, "weight")].numel() < SMALL
    return f"fewer than {SMALL} values" if small else None


def _module(op: str, backend: str) -> ModuleType:
    return importlib.import_module(f"trim_kernels.ops.{op.removesuffix('_')}.{MODULES[backend]}")
