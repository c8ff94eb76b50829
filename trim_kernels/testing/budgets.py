"""What row budgets and layer budgets owe, whichever pruner calls them: for authors of plug-ins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trim_kernels.checks import check_tensor
from trim_kernels.testing.nasty import DTYPES, nasty_matrix
from trim_kernels.testing.plugins import LINEARS, cases, some_inputs

BLOCKS = (("17x129", "ties", "5x8"), ("all_equal", "3x7"), ("all_zero", "ascending"))
"""The linears of each block of a small model."""
SPARSITIES = (0.0, 0.5, 0.7, 1.0)


class RowDecision(Protocol):
    """Counts int32 [R] and, where a search found them, how good it says they are, and equal ones were.

    ``rounded``: they follow a rounding of their own, which may miss the total.
    """

    @property
    def prune_count(self) -> Tensor: ...
    @property
    def quality(self) -> float | None: ...
    @property
    def baseline_quality(self) -> float | None: ...
    @property
    def rounded(self) -> bool: ...


RowBudget = Callable[[Tensor, Tensor, int], RowDecision]
LayerBudget = Callable[[Sequence[Sequence[Tensor]], Sequence[Sequence[Tensor]], float], Sequence[float]]
Tensors = Sequence[Sequence[Tensor]]


def check_row_budget(budget: RowBudget, row_limit: Callable[[int], int] = lambda columns: columns) -> None:
    """Run ``budget(weight [R, C], inputs [sequences, tokens, C], prune_count)`` on nasty matrices, in every dtype.

    The counts must be int32 [R], from 0 to ``row_limit(C)``, sum to ``prune_count`` (unless they are ``rounded``) and
    come out the same again; the weight must stay as it is, and a quality may be infinite, but not NaN. None, one, half
    and all of the weights go that may. Matrices near the largest float are left out: outputs overflow.

    Raises:
        AssertionError: what is wrong, and in which case.
    """
    for case, weight, inputs in cases(LINEARS - {"huge"}):
        rows, columns = weight.shape
        most = rows * row_limit(columns)
        for count in sorted({0, min(1, most), most // 2, most}):
            try:
                _check_row_budget(budget, weight, inputs, count, row_limit(columns))
            except ValueError as error:
                raise AssertionError(f"row budget of {case}, {count} weights: {error}") from error


def check_layer_budget(budget: LayerBudget) -> None:
    """Run ``budget(weights, inputs, sparsity)`` on small models, in every dtype and at sparsities from 0 to 1.

    ``weights``: [R, C] by block and linear; ``inputs``: [sequences, tokens, C], likewise. It must return one finite
    sparsity for each linear, in order, and the same again; the weights must stay as they are. What the sparsities sum
    to does not matter: an engine shifts them to the target.

    Raises:
        AssertionError: what is wrong, and in which case.
    """
    for dtype_name, dtype in DTYPES.items():
        weights = [[nasty_matrix(name, dtype) for name in block] for block in BLOCKS]
        for inputs_name in ("a zero input", "zero inputs"):
            inputs = [[some_inputs(weight)[inputs_name] for weight in block] for block in weights]
            for sparsity in SPARSITIES:
                try:
                    _check_layer_budget(budget, weights, inputs, sparsity)
                except ValueError as error:
                    case = f"a model in {dtype_name}, {inputs_name}, sparsity {sparsity}"
                    raise AssertionError(f"layer budget of {case}: {error}") from error


def _check_row_budget(budget: RowBudget, weight: Tensor, inputs: Tensor, count: int, limit: int) -> None:
    given = weight.clone()
    first, again = (budget(weight, inputs, count) for _ in range(2))
    _require_untouched(weight, given)
    counts = first.prune_count
    check_tensor("prune_count", counts, (len(weight),), torch.int32, weight.device)
    if bool((counts < 0).any()) or bool((counts > limit).any()):
        raise ValueError(f"prune_count: expected 0 to {limit} weights of a row, got {counts.tolist()}")
    if int(counts.sum()) != count and not first.rounded:
        raise ValueError(f"prune_count: expected {count} weights in all, got {int(counts.sum())}")
    if not torch.equal(counts, again.prune_count):
        raise ValueError("prune_count: expected the same counts in a second call, got others")
    for name in ("quality", "baseline_quality"):
        value = getattr(first, name)
        if value is not None and math.isnan(value):
            raise ValueError(f"{name}: expected a number, or None, got NaN")


def _check_layer_budget(budget: LayerBudget, weights: Tensors, inputs: Tensors, sparsity: float) -> None:
    given = [[weight.clone() for weight in block] for block in weights]
    first, again = (list(budget(weights, inputs, sparsity)) for _ in range(2))
    for block, before in zip(weights, given, strict=True):
        for weight, values in zip(block, before, strict=True):
            _require_untouched(weight, values)
    linears = sum(map(len, weights))
    if len(first) != linears:
        raise ValueError(f"expected {linears} sparsities, one for each linear, got {len(first)}")
    for value in first:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value!r}")
    if first != again:
        raise ValueError("expected the same sparsities in a second call, got others")


def _require_untouched(weight: Tensor, given: Tensor) -> None:
    if not torch.equal(weight, given):
        raise ValueError("weight: expected it untouched, got other values in it")
