"""A loop shaped as those of the published scripts, with their way to choose weights and with ours.

    python -m benchmarks.script_loops [--rounds 3] [ROWSxCOLUMNS ...]

For each method it prints how much of the masks agrees, and the seconds of both ways over all matrices, at 70%. The
statistics, which the scripts gather in hooks, are made before and are not timed. What the scripts do is written here
and in baselines/ from their formulas; how to patch the scripts themselves stands in
python/trim_prune/integrations/wanda_scripts.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.baselines import sparsegpt_paper, trim_paper
from benchmarks.data import linear_like
from benchmarks.problems import SPARSITY
from benchmarks.tables import columns
from trim_prune.integrations import wanda_scripts

SHAPES = ("576x576", "1536x576", "576x1536")
ARGUMENTS = SimpleNamespace(qmetric="cosim_flat", qmetric_dimwise="cosim", iterations=10, forbid_neg_lr=False)
HEADINGS = ("method", "masks agree %", "as published s", "ours s", "x")


@dataclass(frozen=True)
class Statistics:
    """A linear and what a script's hooks know of it."""

    weight: Tensor
    inputs: Tensor
    scaler_row: Tensor
    hessian: Tensor

    @classmethod
    def make(cls, shape: str, seed: int) -> Statistics:
        """Of "ROWSxCOLUMNS"."""
        rows, width = map(int, shape.split("x"))
        weight, inputs, norms = linear_like(rows, width, 256, seed=seed)
        hessian = torch.zeros(width, width)
        sparsegpt_paper.add_batch(hessian, 0, inputs.t())
        return cls(weight, inputs, norms**2, hessian)

    @property
    def metric(self) -> Tensor:
        """Wanda's."""
        return self.weight.abs() * self.scaler_row.sqrt()[None]


class SparseGPT:
    """What the scripts' class is to its method."""

    fasterprune = wanda_scripts.fasterprune

    def __init__(self, statistics: Statistics) -> None:
        rows, width = statistics.weight.shape
        self.layer = nn.Linear(width, rows, bias=False)
        self.layer.weight.data = statistics.weight.clone()
        self.H = statistics.hessian.clone()


def _sorted_rows(statistics: Statistics) -> Tensor:
    order = statistics.metric.sort(dim=-1, stable=True).indices
    lowest = order[:, : int(order.shape[1] * SPARSITY)]
    return torch.zeros_like(statistics.weight, dtype=torch.bool).scatter_(1, lowest, True)


def _sorted_groups(statistics: Statistics) -> Tensor:
    metric = statistics.metric
    goes = torch.zeros_like(metric, dtype=torch.bool)
    for first in range(0, metric.shape[1], 4):
        lowest = metric[:, first : first + 4].topk(2, dim=1, largest=False).indices
        goes.scatter_(1, first + lowest, True)
    return goes


def _published_update(statistics: Statistics) -> Tensor:
    factor, dead = sparsegpt_paper.factorise(statistics.hessian)
    weight = statistics.weight.clone()
    weight[:, dead] = 0
    sparsegpt_paper.update(weight, factor, SPARSITY)
    return weight == 0


def _our_update(statistics: Statistics) -> Tensor:
    solver = SparseGPT(statistics)
    solver.fasterprune(SPARSITY)
    return solver.layer.weight.data == 0


def _published_search(statistics: Statistics) -> Tensor:
    scale = statistics.scaler_row.sqrt()
    counts = trim_paper.trim_paper(statistics.weight, statistics.inputs, SPARSITY, scale).prune_count
    order = statistics.metric.sort(dim=-1, stable=True).indices
    goes = torch.arange(order.shape[1]).expand_as(order) < counts[:, None]
    return torch.zeros_like(goes).scatter_(1, order, goes)


def _our_search(statistics: Statistics) -> Tensor:
    return wanda_scripts.trim_mask(ARGUMENTS, SPARSITY, statistics.weight, statistics.metric, statistics.inputs)[0]


METHODS: dict[str, tuple[Callable[[Statistics], Tensor], Callable[[Statistics], Tensor]]] = {
    "Wanda": (_sorted_rows, lambda linear: wanda_scripts.wanda_mask(linear.metric, SPARSITY)),
    "Wanda 2:4": (_sorted_groups, lambda linear: wanda_scripts.wanda_mask(linear.metric, 0.5, 2, 4)),
    "SparseGPT": (_published_update, _our_update),
    "TRIM": (_published_search, _our_search),
}
"""As published, and ours: each says what goes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.script_loops", description="Script-shaped loops.")
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    options = parser.parse_args(arguments)
    linears = [Statistics.make(shape, seed) for seed, shape in enumerate(options.shapes)]
    lines: list[tuple[str, ...]] = [HEADINGS]
    for method, (published, ours) in METHODS.items():
        agree = sum(int((published(linear) == ours(linear)).sum()) for linear in linears)
        taken = [min(_seconds(way, linears) for _ in range(options.rounds)) for way in (published, ours)]
        share = 100 * agree / sum(linear.weight.numel() for linear in linears)
        lines.append((method, f"{share:.3f}", *(f"{seconds:.4f}" for seconds in taken), f"{taken[0] / taken[1]:.1f}"))
    print(columns(lines))


def _seconds(way: Callable[[Statistics], Tensor], linears: Sequence[Statistics]) -> float:
    start = time.perf_counter()
    for linear in linears:
        goes = way(linear)
        # What every script does next.
        linear.weight.clone()[goes] = 0
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
