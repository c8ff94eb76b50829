"""Awkward matrices, memory layouts, scores and prune counts, by name and the same in every run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trim_kernels.inverse_factor import inverse_factor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Every dtype that a weight may have."""


def _normal(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1000 * rows + columns))


def _few_values(rows: int, columns: int) -> Tensor:
    return _normal(rows, columns).mul(1.5).round().clamp(-2, 2)


def _signed_zeros(rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, columns).copysign(_normal(rows, columns))


def _ascending(rows: int, columns: int) -> Tensor:
    return torch.linspace(0.125, 2, columns).repeat(rows, 1)


def _of_size(size: Callable[[torch.finfo], float]) -> Callable[[torch.dtype], Tensor]:
    def matrix(dtype: torch.dtype) -> Tensor:
        share = _normal(5, 67).clamp(-2, 2) / 2
        return (share.to(torch.float64) * size(torch.finfo(dtype))).to(dtype)

    return matrix


def _fixed(values: Tensor) -> Callable[[torch.dtype], Tensor]:
    return values.to


MATRICES: dict[str, Callable[[torch.dtype], Tensor]] = {
    "1x1": _fixed(_normal(1, 1)),
    "one_row": _fixed(_normal(1, 37)),
    "one_column": _fixed(_normal(9, 1)),
    "no_rows": _fixed(_normal(0, 5)),
    "3x7": _fixed(_normal(3, 7)),
    "5x8": _fixed(_normal(5, 8)),
    "17x129": _fixed(_normal(17, 129)),
    "3x2049": _fixed(_normal(3, 2049)),
    "all_equal": _fixed(torch.full((4, 33), -0.75)),
    "all_zero": _fixed(torch.zeros(4, 33)),
    "signed_zeros": _fixed(_signed_zeros(4, 33)),
    "ties": _fixed(_few_values(6, 131)),
    "huge": _of_size(lambda limits: limits.max),
    "tiny": _of_size(lambda limits: limits.tiny),
    "subnormal": _of_size(lambda limits: 20 * limits.tiny * limits.eps),
    "ascending": _fixed(_ascending(4, 65)),
    "descending": _fixed(_ascending(4, 65).flip(1)),
}
"""Named matrices; each is made in the dtype that it is called with."""


def nasty_matrix(name: str, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """The named matrix in the named layout, with memory of its own."""
    return LAYOUTS[layout](MATRICES[name](dtype))


def _inside(matrix: Tensor, rows: slice, columns: slice, shape: tuple[int, int]) -> Tensor:
    """A view that equals ``matrix``, in a larger buffer full of NaN: a backend that strays outside is found out."""
    view = torch.full(shape, torch.nan, dtype=matrix.dtype, device=matrix.device)[rows, columns]
    return view.copy_(matrix)


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.t().contiguous().t()


def _column_strided(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    return _inside(matrix, slice(None), slice(1, None, 2), (rows, 2 * columns + 1))


def _row_strided(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    return _inside(matrix, slice(None, None, 2), slice(0, columns), (2 * rows, columns + 3))


def _offset(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    return _inside(matrix.reshape(1, -1), slice(0, 1), slice(1, None), (1, rows * columns + 1)).view(rows, columns)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda matrix: matrix.clone(memory_format=torch.contiguous_format),
    "transposed": _transposed,
    "column_strided": _column_strided,
    "row_strided": _row_strided,
    "offset": _offset,
}
"""Ways to lay a matrix out in memory; each copies it, with its values and shape."""


def _column_scale(weight: Tensor) -> Tensor:
    scale = _normal(1, weight.shape[1])[0].abs()
    scale[::5] = 0
    return scale


def _score(weight: Tensor) -> Tensor:
    return _normal(*weight.shape).mul(4).round().abs() / 4


SCORINGS: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    "magnitude": lambda weight: {},  # noqa: ARG005
    "column_scale": lambda weight: {"column_scale": _column_scale(weight)},
    "score": lambda weight: {"score": _score(weight)},
}
"""Ways to score a weight: the keyword arguments of a call. Scale and score hold zeros and ties."""


def mixed_counts(weight: Tensor) -> Tensor:
    """Prune counts int32 [R] that differ from row to row; the first two are 0 and C."""
    rows, columns = weight.shape
    counts = torch.randint(
        0, columns + 1, (rows,), dtype=torch.int32, generator=torch.Generator().manual_seed(rows + columns)
    )
    counts[:2] = torch.tensor([0, columns], dtype=torch.int32)[:rows]
    return counts


def heavy_tailed(rows: int, columns: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight [R, C], inputs [C, N] and column scale [C] as a language model has them, all float32.

    Rows and columns differ in size, some columns by an order of magnitude, so that budgets have something to gain. The
    scale is Wanda's, the norm of each column's inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.randn(rows, 1, generator=generator).mul(0.5).exp()
    shape = torch.randn(rows, 1, generator=generator).mul(0.4).exp()
    normal = torch.randn(rows, columns, generator=generator)
    weight = 0.02 * size * normal.sign() * normal.abs().pow(shape)
    inputs = torch.randn(columns, tokens, generator=generator) * torch.randn(columns, 1, generator=generator).exp()
    inputs += 0.3 * torch.randn(columns, 1, generator=generator)
    return weight, inputs, inputs.norm(dim=1)


def elimination(rows: int, columns: int, sparsity: float = 0.6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, kept and factor of a call of obs_update_: the Hessian is that of heavy-tailed inputs, damped by 1%."""
    weight, inputs, _ = heavy_tailed(rows, columns, max(1, columns // 2), seed)
    hessian = (inputs @ inputs.t()).double()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    kept = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) >= sparsity
    return weight, kept, inverse_factor(hessian).float()
