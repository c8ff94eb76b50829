"""obs_update_ has no CUDA kernel: Triton's serves."""

from __future__ import annotations

from collections.abc import Mapping


def refusal(call: Mapping[str, object]) -> str:
    return "obs_update_ has no CUDA kernel, Triton's serves"
