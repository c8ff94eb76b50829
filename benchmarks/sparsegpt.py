"""SparseGPT, ours against the published formulation: its factor, its update, and both together.

The update is timed twice: with a mask fixed before, and with one chosen in each 128 columns, as published.

    python -m benchmarks.sparsegpt [--threads 2] [--budget 20] [ROWSxCOLUMNS ...]

The two take turns on the same damped Hessian; figures are the medians, and the best times of each. They are written
to results/sparsegpt-cpu.json too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import trim_kernels
from benchmarks.about import about
from benchmarks.baselines import sparsegpt_paper
from benchmarks.data import linear_like
from benchmarks.problems import SPARSITY
from benchmarks.result_file import FOLDER, ResultFile
from benchmarks.tables import columns
from trim_prune import Recipe
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.scores import Importance
from trim_prune.solvers import SOLVERS, SolveRequest

SHAPES = ("576x576", "1536x1536", "1536x8960")
HEADINGS = ("linear", "step", "published ms", "ours ms", "x median", "x best")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each shape, and write the lines of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsegpt", description="SparseGPT's two steps.")
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of a shape; at least two rounds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    results = ResultFile(FOLDER / "sparsegpt-cpu.json", about("cpu") | {"threads": options.threads}, go_on=False)
    for shape in options.shapes:
        rows, width = map(int, shape.split("x"))
        lines = _lines(rows, width, options.budget)
        print(columns([HEADINGS, *lines]), flush=True)
        for line in lines:
            results.append("lines", dict(zip(HEADINGS, line, strict=True)))


def _lines(rows: int, width: int, budget: float) -> list[tuple[str, ...]]:
    """One line a step."""
    weight, inputs, _ = linear_like(rows, width, 1024)
    hessian = torch.zeros(width, width)
    sparsegpt_paper.add_batch(hessian, 0, inputs.t())
    damped = hessian.clone()
    damped.diagonal().add_(sparsegpt_paper.DAMPING * damped.diagonal().mean())
    kept = torch.rand(rows, width, generator=torch.Generator().manual_seed(1)) >= SPARSITY
    factor = trim_kernels.inverse_factor(damped)
    solve = _solver(inputs.t(), rows)
    calls: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object]]] = {
        "factor": (lambda _: sparsegpt_paper.factorise(hessian), lambda _: trim_kernels.inverse_factor(damped)),
        "update, mask fixed": (
            lambda own: sparsegpt_paper.update(own, factor, SPARSITY, kept),
            lambda own: trim_kernels.obs_update_(own, kept, factor),
        ),
        "update": (lambda own: sparsegpt_paper.update(own, factor, SPARSITY), solve),
    }
    taken: dict[str, list[tuple[float, float]]] = {step: [] for step in calls}
    start = time.perf_counter()
    while len(taken["update"]) < 2 or time.perf_counter() - start < budget:
        for step, (published, ours) in calls.items():
            taken[step].append((_seconds(published, weight.clone()), _seconds(ours, weight.clone())))
    pairs = zip(taken["factor"], taken["update"], strict=True)
    taken["factor and update"] = [(f[0] + u[0], f[1] + u[1]) for f, u in pairs]
    return [(f"{rows} x {width}", step, *_cells(times)) for step, times in taken.items()]


def _solver(inputs: Tensor, rows: int) -> Callable[[Tensor], object]:
    """The engine's solver in its published mode, which has its factor already."""
    recipe = Recipe.build({"preset": "sparsegpt", "sparsity": SPARSITY})
    statistics = LinearStatistics()
    statistics.add(inputs[None], frozenset({"gram"}), [])
    statistics.factor(recipe.damping)
    weights = rows * inputs.shape[1]
    counts = trim_kernels.uniform_counts(rows, inputs.shape[1], round(SPARSITY * weights))
    importance = Importance()
    return lambda own: SOLVERS.get("sparsegpt").function(
        SolveRequest(own, counts, True, importance, statistics, recipe)
    )


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
