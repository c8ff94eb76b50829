"""row_error_curve has no CUDA kernel of its own."""

from __future__ import annotations

from collections.abc import Mapping


def refusal(call: Mapping[str, object]) -> str:
    return "there is no CUDA kernel of row_error_curve; Triton serves GPUs"
