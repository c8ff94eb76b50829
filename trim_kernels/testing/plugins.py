"""What scores and solvers owe, whichever pruner calls them: for authors of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import torch
from torch import Tensor

from trim_kernels.bits import pack_bits, unpack_bits
from trim_kernels.checks import check_scoring, check_tensor
from trim_kernels.scoring import require_finite_tensor, require_importance
from trim_kernels.testing.nasty import DTYPES, MATRICES, mixed_counts, nasty_matrix

SEQUENCES, TOKENS = 2, 3
LINEARS = MATRICES.keys() - {"no_rows", "3x2049"}
"""No linear is without rows, and a wide one is to a score or solver like any other, but slow."""


class Importance(Protocol):
    """``column_scale`` float32 [C], or ``score`` float32 [R, C], or neither: abs(weight)."""

    @property
    def column_scale(self) -> Tensor | None: ...
    @property
    def score(self) -> Tensor | None: ...


def check_score(score: Callable[[Tensor, Tensor], Importance]) -> None:
    """Run ``score(weight [R, C], inputs [sequences, tokens, C])`` on nasty matrices, in every dtype.

    Scale or score must have its shape, be float32, finite and not negative, and come out the same again; the weight
    must stay as it is. Some of the inputs are zero, in one column or in all.

    Raises:
        AssertionError: what is wrong, and in which case.
    """
    for case, weight, inputs in cases(LINEARS):
        try:
            _check_score(score, weight, inputs)
        except ValueError as error:
            raise AssertionError(f"score of {case}: {error}") from error


def check_solver(solve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Run ``solve(weight [R, C], inputs [sequences, tokens, C], prune_count int32 [R]) -> kept`` on nasty matrices.

    ``solve`` prunes the weight in place and returns what it kept: uint8 [R, ceil(C/8)], bit 1 = kept, little bit order,
    unused bits 0. It must prune the counts of the rows (0 and C among them), leave zeros there and finite values
    elsewhere, and do the same again. Weights near the largest float are left out: updates of them may overflow.

    Raises:
        AssertionError: what is wrong, and in which case.
    """
    for case, weight, inputs in cases(LINEARS - {"huge"}):
        try:
            _check_solver(solve, weight, inputs)
        except ValueError as error:
            raise AssertionError(f"solver on {case}: {error}") from error


def cases(matrices: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Some of the named matrices in every dtype, each with inputs: the case in words, weight, inputs."""
    for matrix in sorted(matrices):
        for dtype_name, dtype in DTYPES.items():
            weight = nasty_matrix(matrix, dtype)
            for inputs_name, inputs in some_inputs(weight).items():
                yield f"{matrix} in {dtype_name}, {inputs_name}", weight, inputs


def some_inputs(weight: Tensor) -> dict[str, Tensor]:
    """Inputs [sequences, tokens, C] of a weight, by what they are: of one column zero, or of all."""
    columns = weight.shape[1]
    normal = torch.randn(SEQUENCES, TOKENS, columns, generator=torch.Generator().manual_seed(columns)).to(weight.dtype)
    dead = normal.clone()
    dead[..., columns // 2] = 0
    return {"a zero input": dead, "zero inputs": torch.zeros_like(normal)}


def _check_score(score: Callable[[Tensor, Tensor], Importance], weight: Tensor, inputs: Tensor) -> None:
    first, again = (_importance(score, weight, inputs) for _ in range(2))
    for name, tensor in first.items():
        if not torch.equal(tensor, again[name]):
            raise ValueError(f"{name}: expected the same values in a second call, got others")


def _importance(score: Callable[[Tensor, Tensor], Importance], weight: Tensor, inputs: Tensor) -> dict[str, Tensor]:
    given = weight.clone()
    importance = score(weight, inputs)
    if not torch.equal(weight, given):
        raise ValueError("weight: expected it untouched, got other values in it")
    check_scoring(weight, importance.column_scale, importance.score)
    found = {"column_scale": importance.column_scale, "score": importance.score}
    there = {name: tensor for name, tensor in found.items() if tensor is not None}
    for name, tensor in there.items():
        require_importance(name, tensor)
    return there


def _check_solver(solve: Callable[[Tensor, Tensor, Tensor], Tensor], weight: Tensor, inputs: Tensor) -> None:
    (solved, kept), (solved_again, kept_again) = (_solve(solve, weight.clone(), inputs) for _ in range(2))
    if not torch.equal(kept, kept_again) or not torch.equal(solved, solved_again):
        raise ValueError("weight, kept: expected the same values in a second call, got others")


def _solve(solve: Callable[[Tensor, Tensor, Tensor], Tensor], weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = weight.shape
    prune_count = mixed_counts(weight)
    kept = solve(weight, inputs, prune_count.clone())
    check_tensor("kept", kept, (rows, -(-columns // 8)), torch.uint8, weight.device)
    mask = unpack_bits(kept, columns)
    if not torch.equal(kept, pack_bits(mask)):
        raise ValueError("kept: expected 0 in the unused bits of each row's last byte, got 1")
    pruned = columns - mask.sum(1, dtype=torch.int32)
    if not torch.equal(pruned, prune_count):
        raise ValueError(f"kept: expected {prune_count.tolist()} weights pruned of the rows, got {pruned.tolist()}")
    require_finite_tensor("weight", weight)
    if weight.masked_fill(mask, 0).any():
        raise ValueError("weight: expected zeros where kept is 0, got other values")
    return weight, kept
