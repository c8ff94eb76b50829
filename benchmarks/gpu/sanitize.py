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
WIDEST_GRAM = 5120
"""Columns whose Gram matrix the reference on the CPU takes seconds for."""


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


def _ranked(of: int) -> Callable[[Arguments, str], object]:
    def call(given: Arguments, backend: str) -> object:
        return trim_kernels.nm_rank(given["weight"], of, column_scale=given["scale"], backend=backend)

    return call


def _quality(given: Arguments, backend: str) -> object:
    found = trim_kernels.row_quality(
        given["weight"], given["prune_count"], given["inputs"], column_scale=given["scale"], backend=backend
    )
    return found.dense_sq, found.dropped_sq, found.cross, found.peak


def _column_sqnorm(given: Arguments, backend: str) -> object:
    acc = torch.zeros(given["weight"].shape[1], device=given["weight"].device)
    return trim_kernels.column_sqnorm_(acc, given["weight"], token_mask=given["prune_count"] > 0, backend=backend)


def _gram(given: Arguments, backend: str) -> object:
    columns = given["weight"].shape[1]
    acc = torch.zeros(columns, columns, device=given["weight"].device)
    return trim_kernels.gram_(acc, given["weight"], backend=backend)


def _allocate(given: Arguments, backend: str) -> object:
    """Where rows are alike last bits decide between budgets, all of which have the same total."""
    budget = trim_kernels.allocate_rows(
        given["weight"], given["inputs"], 0.5, column_scale=given["scale"], iterations=3, backend=backend
    )
    return budget.prune_count.sum()


CALLS: dict[str, tuple[Callable[[Arguments, str], object], Callable[[object, object], None]]] = {
    "row_threshold": (_selected("row_threshold"), equal),
    "row_mask": (_selected("row_mask"), equal),
    "row_mask packed": (_selected("row_mask", packed=True), equal),
    "prune_rows_": (_selected("prune_rows_"), equal),
    "row_order": (
        lambda given, backend: trim_kernels.row_order(given["weight"], column_scale=given["scale"], backend=backend),
        equal,
    ),
    "prune_rows_ in one pass": (_selected("prune_rows_", check_values=False), equal),
    "nm_rank of 8": (_ranked(8), equal),
    "nm_rank of 12": (_ranked(12), equal),
    "nm_mask": (_grouped("nm_mask", 4, 8), equal),
    "nm_mask packed": (_grouped("nm_mask", 2, 4, packed=True), equal),
    "prune_nm_ 2 of 4": (_grouped("prune_nm_", 2, 4), equal),
    "prune_nm_ 5 of 12": (_grouped("prune_nm_", 5, 12), equal),
    "row_quality": (_quality, close_statistics),
    "allocate_rows": (_allocate, equal),
    "column_sqnorm_": (_column_sqnorm, close_sums),
    "gram_": (_gram, close_gram),
}


def matrices() -> dict[str, Tensor]:
    """Odd and even widths, ties, rows as long as a model's, beyond shared memory, and such that blocks share."""
    names = ("5x8", "17x129", "ties", "3x2049")
    widths = (5120, 18_944, 40_000, 60_000, 66_001)
    return {name: testing.nasty_matrix(name, torch.float32) for name in names} | {
        f"3 x {width}": testing.heavy_tailed(3, width, TOKENS)[0] for width in widths
    }


def run(device: str, backend: str) -> int:
    """Compare every call with the reference on the CPU; the number of calls."""
    calls = 0
    for matrix, values in matrices().items():
        for dtype in testing.DTYPES.values():
            weight = values.to(dtype)
            scale = testing.SCORINGS["column_scale"](weight)["column_scale"]
            inputs = torch.randn(weight.shape[1], TOKENS, generator=torch.Generator().manual_seed(0)).to(dtype)
            given = {"weight": weight, "prune_count": testing.mixed_counts(weight), "scale": scale, "inputs": inputs}
            there = {name: tensor.to(device) for name, tensor in given.items()}
            for name, (call, check) in CALLS.items():
                if name == "gram_" and weight.shape[1] > WIDEST_GRAM:
                    continue
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
