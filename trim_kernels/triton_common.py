"""What the Triton backends share on the host: may they run, and how a call becomes arguments of a kernel.

Kernels live in modules named ``triton_kernels``, which need Triton to be imported; the ``triton`` modules of the
operators do not, so that they can say why they do not run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from trim_kernels.checks import require_counts_in_range
from trim_kernels.scoring import require_finite

MAGNITUDE, COLUMN_SCALE, SCORE = 0, 1, 2
"""How the kernels score a weight (``SCORING``)."""

_LOWEST_CAPABILITY = (8, 0)


class Status(TypedDict):
    """Whether the Triton backend can run here."""

    version: str | None
    usable: bool
    why: str | None
    """Why it is not usable."""


def status() -> Status:
    """For ``trim-prune doctor``."""
    if not _installed():
        return {"version": None, "usable": False, "why": "triton is not installed"}
    why = None
    if not interpreted():
        if not torch.cuda.is_available():
            why = "torch sees no GPU (with TRITON_INTERPRET=1 the kernels run, slowly, on the CPU)"
        else:
            why = _old_device(torch.device("cuda", torch.cuda.current_device()))
    return {"version": _version(), "usable": why is None, "why": why}


def refusal(call: Mapping[str, Any], tensor: str = "weight", max_columns: int | None = None) -> str | None:
    """Why the Triton kernels cannot run a call whose main argument is ``tensor``."""
    if not _installed():
        return "triton is not installed"
    matrix = call[tensor]
    if matrix.device.type == "cuda":
        old = _old_device(matrix.device)
        if old is not None:
            return old
    elif not (matrix.device.type == "cpu" and interpreted()):
        return f"the {tensor} is on {matrix.device}"
    if max_columns is not None and matrix.shape[1] > max_columns:
        return f"rows of {matrix.shape[1]} columns are too wide; at most {max_columns}"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels; the variable must be set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the current device: make it that of ``tensor``."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def cdiv(size: int, block: int) -> int:
    return -(-size // block)


def power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()


def scoring_arguments(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> dict[str, Any]:
    """The arguments by which every kernel that scores weights takes them."""
    scoring = SCORE if score is not None else MAGNITUDE if column_scale is None else COLUMN_SCALE
    bits = as_bits(weight)
    matrix = bits if score is None else score
    return {
        "weight": bits,
        # What the kernel does not read is any tensor.
        "column_scale": bits if column_scale is None else column_scale.contiguous(),
        "score": matrix,
        "weight_row": weight.stride(0),
        "weight_column": weight.stride(1),
        "score_row": matrix.stride(0),
        "score_column": matrix.stride(1),
        "SCORING": scoring,
    }


def zero_bits(weight: Tensor, scoring: int) -> int:
    """How many of the lowest bits are zero in every key: scores that are magnitudes have no more bits than these."""
    return {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}[weight.dtype] if scoring == MAGNITUDE else 0


def as_bits(tensor: Tensor) -> Tensor:
    """The tensor as kernels take it: bfloat16 as int16, see ``triton_kernels.as_float32``."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def as_integers(weight: Tensor) -> Tensor:
    """The same memory as integers, which travel through a kernel unchanged."""
    return weight.view(torch.int32 if weight.element_size() == 4 else torch.int16)


class BadValues:
    """What a kernel says about the values that it met; asking makes the host wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.flag = torch.zeros(1, dtype=torch.int32, device=device)

    def require_none(
        self,
        weight: Tensor,
        column_scale: Tensor | None,
        score: Tensor | None,
        prune_count: Tensor | None = None,
    ) -> None:
        """Raise the error that names the value, where there is one.

        Raises:
            ValueError: NaN, infinity, a negative score, or a prune count out of range.
        """
        # Without rows no program ran, and none looked at the scale.
        if weight.shape[0] != 0 and int(self.flag) == 0:
            return
        if prune_count is not None:
            require_counts_in_range(prune_count, weight.shape[1])
        require_finite(weight, column_scale, score)
        if weight.shape[0] != 0:
            raise RuntimeError("the Triton kernel met a bad value that is gone; was a tensor changed meanwhile?")


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _version() -> str | None:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


def _old_device(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < _LOWEST_CAPABILITY:
        return f"{device} has compute capability {capability[0]}.{capability[1]}, at least 8.0 is needed"
    return None
