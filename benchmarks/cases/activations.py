"""Statistics of the tokens that enter a linear."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.case import Case
from benchmarks.cases.checks import close_gram, close_sums, roughly_close_sums
from benchmarks.problems import Activations


def _plain_gram(activations: Activations) -> Tensor:
    """Both triangles, accumulated in float32; on a GPU by tensor cores, if the dtype allows it."""
    x = activations.x
    if x.is_cuda and x.dtype != torch.float32:
        return activations.acc.add_(torch.mm(x.t(), x, out_dtype=torch.float32))
    tokens = x.float()
    return activations.acc.addmm_(tokens.t(), tokens)


def _close_lower_triangle(result: object, expected: object) -> None:
    assert isinstance(result, Tensor)
    close_gram(result.tril_(), expected)


def _triangle(activations: Activations) -> float:
    columns = activations.x.shape[1]
    return columns * (columns + 1) / 2


def _gram_bytes(activations: Activations) -> float:
    return activations.x_bytes() + 8 * _triangle(activations)


def _gram_operations(activations: Activations) -> float:
    return 2 * activations.x.shape[0] * _triangle(activations)


COLUMN_SQNORM = Case(
    "column_sqnorm_",
    "",
    Activations.for_columns,
    lambda activations, backend: trim_kernels.column_sqnorm_(activations.acc, activations.x, backend=backend),
    close_sums,
    bytes_moved=Activations.x_bytes,
    operations=lambda _: 0.0,
    baseline=lambda activations: activations.acc.add_(activations.x.to(torch.float32).square().sum(0)),
    baseline_name="float32, square, sum",
    baseline_check=roughly_close_sums,
    in_place=True,
    of_activations=True,
)
GRAM = Case(
    "gram_",
    "",
    Activations.for_gram,
    lambda activations, backend: trim_kernels.gram_(activations.acc, activations.x, backend=backend),
    close_gram,
    bytes_moved=_gram_bytes,
    operations=_gram_operations,
    baseline=_plain_gram,
    baseline_name="torch.mm in float32, both triangles",
    baseline_check=_close_lower_triangle,
    in_place=True,
    of_activations=True,
)
