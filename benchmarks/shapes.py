"""The linears that the benchmarks run on, as [rows, columns]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """One matrix of a model; ``name`` says which."""

    name: str
    rows: int
    columns: int


CPU_LINEARS = (
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

HEADLINE = Linear("LLaMA-2-13B q, k, v, o; Qwen2.5-14B q, o", 5120, 5120)

GPU_LINEARS = (
    HEADLINE,
    Linear("LLaMA-2-13B, Qwen2.5-14B gate, up", 13824, 5120),
    Linear("LLaMA-2-13B, Qwen2.5-14B down", 5120, 13824),
    Linear("Qwen2.5-72B q, o", 8192, 8192),
    Linear("Qwen2.5-72B gate, up", 29568, 8192),
    Linear("Qwen2.5-72B down", 8192, 29568),
    Linear("LLaMA-2-7B q, k, v, o", 4096, 4096),
    Linear("LLaMA-2-7B gate, up", 11008, 4096),
    Linear("LLaMA-2-7B down", 4096, 11008),
    Linear("Qwen2.5-14B k, v", 1024, 5120),
    Linear("Qwen2.5-72B k, v", 1024, 8192),
)
"""The most important ones first; a shape that models share is there once."""
