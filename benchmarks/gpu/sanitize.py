"""Small calls of every CUDA kernel, for compute-sanitizer: python -m benchmarks.gpu.sanitize.

The references run on the CPU, so that little else than our kernels runs under the tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.checks import close_gram, close_statistics, close_sums, equal
from trim_kernels import testing

Arguments = Mapping[str, Tensor]
TOKENS = 24


def _selected(name: str, **options: Any) -> Callable[[Arguments, str], object]:
    """An operation that takes counts and a column scale."""

    def call(given: Arguments, backend: str) -> object:
        function = getattr(trim_kernels, name)
        weight = given["weight"].clone()
        return function(weight, given["prune_count"], column_scale=given["scale"], **options, backend=backend)

    return call


def _grouped(name: str, keep: int, of: int, **options: Any) -> Callable[[Arguments, str], object]:
    def call(given: Arguments, backend: str) -> object:
        function = getattr(trim_kernels, name)
        return function(given["weight"].clone(), keep, of, column_scale=given["scale"], **options, backend=backend)

    return call


def _quality(given: Arguments, backend: str) -> object:
    found = trim_kernels.row_quality(
        given["weight"], given["prune_count"], given["inputs"], column_scale=given["scale"], backend=backend
    )
    return found.dense_sq, found.dropped_sq, found.cross, found.peak


def _column_sqnorm(given: Arguments, backend: str) -> object:
    acc = torch.zeros(given["weight"].shape[1], device=given["weight"].device)
    return trim_kernels.column_sqnorm_(acc, given["weight"], backend=backend)


def _gram(given: Arguments, backend: str) -> object:
    columns = given["weight"].shape[1]
    acc = torch.zeros(columns, columns, device=given["weight"].device)
    return trim_kernels.gram_(acc, given["weight"], backend=backend)


CALLS: dict[str, tuple[Callable[[Arguments, str], object], Callable[[object, object], None]]] = {
    "row_threshold": (_selected("row_threshold"), equal),
    "row_mask": (_selected("row_mask"), equal),
    "row_mask packed": (_selected("row_mask", packed=True), equal),
    "prune_rows_": (_selected("prune_rows_"), equal),
    "row_order": (
        lambda given, backend: trim_kernels.row_order(given["weight"], column_scale=given["scale"], backend=backend),
        equal,
    ),
    "nm_mask packed": (_grouped("nm_mask", 2, 4, packed=True), equal),
    "prune_nm_ 2 of 4": (_grouped("prune_nm_", 2, 4), equal),
    "prune_nm_ 5 of 12": (_grouped("prune_nm_", 5, 12), equal),
    "row_quality": (_quality, close_statistics),
    "column_sqnorm_": (_column_sqnorm, close_sums),
    "gram_": (_gram, close_gram),
}


def matrices() -> dict[str, Tensor]:
    """Odd and even widths, ties, and a row as long as a model's."""
    names = ("5x8", "17x129", "ties", "3x2049")
    return {name: testing.nasty_matrix(name, torch.float32) for name in names} | {
        "4 x 5120": testing.heavy_tailed(4, 5120, TOKENS)[0]
    }


def run(device: str, backend: str) -> int:
    """Compare every call with the reference on the CPU; the number of calls."""
    calls = 0
    for matrix, values in matrices().items():
        for dtype in (torch.float32, torch.bfloat16):
            weight = values.to(dtype)
            scale = testing.SCORINGS["column_scale"](weight)["column_scale"]
            inputs = torch.randn(weight.shape[1], TOKENS, generator=torch.Generator().manual_seed(0)).to(dtype)
            given = {"weight": weight, "prune_count": testing.mixed_counts(weight), "scale": scale, "inputs": inputs}
            there = {name: tensor.to(device) for name, tensor in given.items()}
            for name, (call, check) in CALLS.items():
                print(f"{name}, {matrix}, {dtype}", flush=True)
                check(_on_cpu(call(there, backend)), _on_cpu(call(given, "reference")))
                calls += 1
    return calls


def _on_cpu(result: object) -> object:
    if isinstance(result, tuple):
        return tuple(map(_on_cpu, result))
    return result.cpu() if isinstance(result, Tensor) else result


if __name__ == "__main__":
    print(f"{run('cuda', 'cuda')} calls, all as the reference")
