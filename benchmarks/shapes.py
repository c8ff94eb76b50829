"""The linears that the benchmarks run on, as [rows, columns]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """One matrix of a model; ``name`` says which."""

    name: str
    rows: int
    columns: int


LINEARS = (
    Linear("SmolLM2-135M q, o", 576, 576),
    Linear("SmolLM2-135M k, v", 192, 576),
    Linear("SmolLM2-135M gate, up", 1536, 576),
    Linear("SmolLM2-135M down", 576, 1536),
    Linear("Qwen2.5-1.5B q, o", 1536, 1536),
    Linear("Qwen2.5-1.5B k, v", 256, 1536),
    Linear("Qwen2.5-1.5B gate, up", 8960, 1536),
    Linear("Qwen2.5-1.5B down", 1536, 8960),
    Linear("2048 x 2048", 2048, 2048),
)
