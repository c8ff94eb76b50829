"""Pruning methods for torch.nn.utils.prune: a count for every row, or n of every m columns.

They work as torch's own do: the parameter becomes NAME_orig, a buffer NAME_mask is multiplied with it before every
forward, methods may follow one another, and ``torch.nn.utils.prune.remove`` makes it permanent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

import trim_kernels


class _Scored(BasePruningMethod):
    # "global": compute_mask is given the whole tensor also if some of it is pruned, and what is left is in rows.
    PRUNING_TYPE = "global"

    def __init__(self, column_scale: Tensor | None = None) -> None:
        self.column_scale = column_scale

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Of lowest abs(t) * column_scale first; what is pruned already goes before all else, and counts."""
        if t.ndim < 2:
            raise ValueError(f"parameter: expected two dimensions or more, got {list(t.shape)}")
        weight = t.detach().flatten(1)
        pruned = default_mask.flatten(1) == 0
        if bool(pruned.any()):
            score = weight.float().abs() * (1 if self.column_scale is None else self.column_scale)
            # The next float of each keeps their order, and lies above what a pruned one gets.
            score = torch.nextafter(score, score.new_tensor(torch.inf)).masked_fill_(pruned, 0)
            kept = self._choose(weight, score=score) & ~pruned
        else:
            kept = self._choose(weight, column_scale=self.column_scale)
        return kept.view(t.shape).to(default_mask.dtype)

    def _choose(self, weight: Tensor, **scoring: Any) -> Tensor:
        raise NotImplementedError


class Rows(_Scored):
    """``amount``: weights that go of each row; an int, int32 [R], or a share of the columns, rounded down."""

    def __init__(self, amount: int | float | Tensor, column_scale: Tensor | None = None) -> None:
        super().__init__(column_scale)
        self.amount = amount

    def _choose(self, weight: Tensor, **scoring: Any) -> Tensor:
        count = int(self.amount * weight.shape[1]) if isinstance(self.amount, float) else self.amount
        return trim_kernels.row_mask(weight, count, **scoring)


class KeepOf(_Scored):
    """Of every ``of`` columns ``keep`` stay; a shorter last group keeps its share, rounded up."""

    def __init__(self, keep: int, of: int, column_scale: Tensor | None = None) -> None:
        super().__init__(column_scale)
        self.keep, self.of = keep, of

    def _choose(self, weight: Tensor, **scoring: Any) -> Tensor:
        return trim_kernels.nm_mask(weight, self.keep, self.of, **scoring)


def prune_rows(
    module: nn.Module,
    name: str,
    amount: int | float | Tensor,
    *,
    column_scale: Tensor | None = None,
    importance_scores: Tensor | None = None,
) -> nn.Module:
    """Prune each row of a parameter by its own count, lowest abs(weight) * column_scale first, ties by lower column.

    Args:
        module: changed as by every function of torch.nn.utils.prune, and returned.
        name: of the parameter, float32, bfloat16 or float16 [R, ...], whose other dimensions are taken as one.
        amount: an int: of each row; int32 [R]: row by row; a float: this share of each row, rounded down. Weights that
            are pruned already count.
        column_scale: float32 [C], such as the norms of the inputs, for Wanda's score.
        importance_scores: of the parameter's shape, in place of its values; their magnitudes count.

    Raises:
        ValueError: as :func:`trim_kernels.row_mask`; the module is as it was.
    """
    method: Any = Rows
    method.apply(module, name, amount, column_scale, importance_scores=importance_scores)
    return module


def prune_n_of_m(
    module: nn.Module,
    name: str,
    keep: int,
    of: int,
    *,
    column_scale: Tensor | None = None,
    importance_scores: Tensor | None = None,
) -> nn.Module:
    """Keep ``keep`` of every ``of`` columns of a parameter; all else as :func:`prune_rows`."""
    method: Any = KeepOf
    method.apply(module, name, keep, of, column_scale, importance_scores=importance_scores)
    return module
