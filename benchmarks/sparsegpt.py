"""SparseGPT with a fixed mask, ours against the published formulation: factor, update, and both together.

    python -m benchmarks.sparsegpt [--threads 2] [--budget 20] [ROWSxCOLUMNS ...]

The two take turns on the same damped Hessian; figures are the medians, and the best times of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import trim_kernels
from benchmarks.baselines import sparsegpt_paper
from benchmarks.data import linear_like
from benchmarks.problems import SPARSITY
from benchmarks.tables import columns

SHAPES = ("576x576", "1536x1536", "1536x8960")
HEADINGS = ("linear", "step", "published ms", "ours ms", "x median", "x best")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsegpt", description="SparseGPT's two steps.")
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of a shape; at least two rounds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for shape in options.shapes:
        rows, width = map(int, shape.split("x"))
        print(columns([HEADINGS, *_lines(rows, width, options.budget)]), flush=True)


def _lines(rows: int, width: int, budget: float) -> list[tuple[str, ...]]:
    """One line a step."""
    weight, inputs, _ = linear_like(rows, width, 1024)
    hessian = torch.zeros(width, width)
    sparsegpt_paper.add_batch(hessian, 0, inputs.t())
    damped = hessian.clone()
    damped.diagonal().add_(sparsegpt_paper.DAMPING * damped.diagonal().mean())
    kept = torch.rand(rows, width, generator=torch.Generator().manual_seed(1)) >= SPARSITY
    factor = trim_kernels.inverse_factor(damped)
    calls: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]] = {
        "factor": (lambda _: sparsegpt_paper.factorise(hessian), lambda _: trim_kernels.inverse_factor(damped)),
        "update": (
            lambda own: sparsegpt_paper.update(own, factor, SPARSITY, kept),
            lambda own: trim_kernels.obs_update_(own, kept, factor),
        ),
    }
    taken: dict[str, list[tuple[float, float]]] = {step: [] for step in calls}
    start = time.perf_counter()
    while len(taken["update"]) < 2 or time.perf_counter() - start < budget:
        for step, (published, ours) in calls.items():
            taken[step].append((_seconds(published, weight.clone()), _seconds(ours, weight.clone())))
    taken["both"] = [(f[0] + u[0], f[1] + u[1]) for f, u in zip(taken["factor"], taken["update"], strict=True)]
    return [(f"{rows} x {width}", step, *_cells(pairs)) for step, pairs in taken.items()]


def _cells(pairs: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    published, ours = (sorted(times) for times in zip(*pairs, strict=True))
    middle = len(pairs) // 2
    return (
        f"{1e3 * published[middle]:.4g}",
        f"{1e3 * ours[middle]:.4g}",
        f"{published[middle] / ours[middle]:.1f}",
        f"{published[0] / ours[0]:.1f}",
    )


def _seconds(call: Callable[[Tensor], object], weight: Tensor) -> float:
    start = time.perf_counter()
    call(weight)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
