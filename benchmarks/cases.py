"""Each operation: how it is called, what stands for it in plain torch, and the least work that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import trim_kernels
from benchmarks.baselines.trim_paper import trim_paper
from benchmarks.measure import Limits

SPARSITY = 0.7
TOKENS = 256


@dataclass(frozen=True)
class Problem:
    """One matrix with all that an operation may need."""

    weight: Tensor
    inputs: Tensor
    column_scale: Tensor
    prune_count: Tensor


@dataclass(frozen=True)
class Case:
    """``run(problem, backend)``, ``baseline(problem)`` and ``check(result, expected)`` of an operation.

    ``bytes_moved`` and ``operations`` count what no implementation can avoid.
    """

    op: str
    run: Callable[[Problem, str], object]
    baseline: Callable[[Problem], object]
    baseline_name: str
    check: Callable[[object, object], None]
    bytes_moved: Callable[[Problem], float]
    operations: Callable[[Problem], float]

    def floor(self, problem: Problem, limits: Limits) -> float:
        """The least seconds on a machine with these limits."""
        return limits.seconds(bytes_moved=self.bytes_moved(problem), operations=self.operations(problem))


def make_problem(weight: Tensor, inputs: Tensor, column_scale: Tensor) -> Problem:
    """Prune counts around the target, different from row to row."""
    rows, columns = weight.shape
    shares = torch.linspace(SPARSITY - 0.15, SPARSITY + 0.15, max(rows, 2), device=weight.device)[:rows]
    return Problem(weight, inputs, column_scale, (shares * columns).int())


def _sort(problem: Problem) -> tuple[Tensor, Tensor]:
    scores, order = torch.sort(problem.weight.float().abs() * problem.column_scale, dim=1, stable=True)
    return scores, order


def _sort_and_scatter(problem: Problem) -> Tensor:
    _, order = _sort(problem)
    position = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, position >= problem.prune_count.unsqueeze(1))


def _sort_and_gather(problem: Problem) -> tuple[Tensor, Tensor]:
    scores, order = _sort(problem)
    place = problem.prune_count.long().unsqueeze(1)
    return scores.gather(1, place).squeeze(1).view(torch.int32), order.gather(1, place).squeeze(1).int()


def _threshold(problem: Problem, backend: str) -> tuple[Tensor, Tensor]:
    found = trim_kernels.row_threshold(
        problem.weight, problem.prune_count, column_scale=problem.column_scale, backend=backend
    )
    return found.key, found.column


def _masked_products(problem: Problem) -> tuple[Tensor, ...]:
    weight = problem.weight.float()
    dense = (weight @ problem.inputs).double()
    dropped = dense - ((weight * _sort_and_scatter(problem)) @ problem.inputs).double()
    return dense.square().sum(1), dropped.square().sum(1), (dense * dropped).sum(1), dense.square().amax(1)


def _paper(problem: Problem) -> Tensor:
    return trim_paper(problem.weight, problem.inputs, SPARSITY, problem.column_scale).prune_count


def _allocate(problem: Problem, backend: str) -> Tensor:
    budget = trim_kernels.allocate_rows(
        problem.weight,
        problem.inputs,
        SPARSITY,
        column_scale=problem.column_scale,
        rounding="floor",
        backend=backend,
    )
    return budget.prune_count


def _quality(problem: Problem, backend: str) -> tuple[Tensor, ...]:
    quality = trim_kernels.row_quality(
        problem.weight, problem.prune_count, problem.inputs, column_scale=problem.column_scale, backend=backend
    )
    return quality.dense_sq, quality.dropped_sq, quality.cross, quality.peak


def _equal(result: object, expected: object) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def _close(result: object, expected: object) -> None:
    """Statistics within 1e-4 of the first of them, the squared norm of the row's output."""
    assert isinstance(result, tuple)
    assert isinstance(expected, tuple)
    for got, wanted in zip(result, expected, strict=True):
        error = float(((got - wanted).abs() / expected[0]).max())
        assert error <= 1e-4, f"a statistic is off by {error:.1e} of the squared norm"


def _same_counts(result: object, expected: object) -> None:
    """Equal but for rows where two orders of float32 summation straddle an integer."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    difference = (result - expected).abs()
    differing = float((difference > 0).double().mean())
    assert int(difference.max()) <= 1, f"counts differ by up to {int(difference.max())}"
    assert differing < 0.01, f"counts differ in {differing:.2%} of the rows"


def _weight_bytes(problem: Problem) -> float:
    return problem.weight.numel() * problem.weight.element_size()


def _product(problem: Problem) -> float:
    return 2.0 * problem.weight.numel() * problem.inputs.shape[1]


def _no_operations(problem: Problem) -> float:
    return 0.0


CASES = (
    Case(
        "row_threshold",
        _threshold,
        _sort_and_gather,
        "torch.sort + gather",
        _equal,
        _weight_bytes,
        _no_operations,
    ),
    Case(
        "row_mask",
        lambda p, b: trim_kernels.row_mask(p.weight, p.prune_count, column_scale=p.column_scale, backend=b),
        _sort_and_scatter,
        "torch.sort + scatter",
        _equal,
        lambda p: _weight_bytes(p) + p.weight.numel(),
        _no_operations,
    ),
    Case(
        "prune_rows_",
        lambda p, b: trim_kernels.prune_rows_(p.weight.clone(), p.prune_count, column_scale=p.column_scale, backend=b),
        lambda p: p.weight * _sort_and_scatter(p),
        "torch.sort + scatter + multiply",
        _equal,
        lambda p: 3 * _weight_bytes(p),
        _no_operations,
    ),
    Case(
        "row_order",
        lambda p, b: trim_kernels.row_order(p.weight, column_scale=p.column_scale, backend=b),
        lambda p: _sort(p)[1].int(),
        "torch.sort",
        _equal,
        lambda p: _weight_bytes(p) + 4.0 * p.weight.numel(),
        _no_operations,
    ),
    Case(
        "row_quality",
        _quality,
        _masked_products,
        "sort, mask, two products, float64 metrics",
        _close,
        _weight_bytes,
        lambda p: 2 * _product(p),
    ),
    Case(
        "allocate_rows",
        _allocate,
        _paper,
        "the paper's formulation, benchmarks/baselines/trim_paper.py",
        _same_counts,
        _weight_bytes,
        _product,
    ),
)
