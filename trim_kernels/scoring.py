"""The score of a weight, and the integer key by which weights are ordered.

``score(i, j) = abs(weight[i, j]) * column_scale[j]`` in float32 with one rounding, or the matrix ``score`` when that is
given, or ``abs(weight)`` when neither is. Scores are finite or overflow to infinity, never negative, so their float32
bits, read as an integer, are ordered as the scores are: that integer is the *key*. Weights are pruned in ascending
``(key, column)`` order, which is the order of a stable ascending sort.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Read = TypeVar("Read", Tensor, Tensor | None)

KEY_MAX = 2**31 - 1
"""Key of the threshold of a row that loses every weight; no score has it."""


def scores(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> Tensor:
    """Scores as float32 [R, C]. This is the definition; the kernels compute the same bits without storing them."""
    if score is not None:
        return score.abs()
    magnitude = weight.to(torch.float32).abs()
    # A scale of -0.0 passes for 0; its sign must not reach the key.
    return magnitude if column_scale is None else magnitude * column_scale.abs()


def require_finite(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> None:
    """Raise ValueError for NaN or infinity in any argument and for a negative scale or score."""
    require_finite_tensor("weight", weight)
    for name, tensor in (("column_scale", column_scale), ("score", score)):
        if tensor is not None:
            require_importance(name, tensor)


def require_finite_tensor(name: str, tensor: Tensor) -> None:
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        raise ValueError(_first_offender(name, tensor, ~finite, "finite values"))


def surely_finite(tensor: Tensor) -> bool:
    """Whether the values add up to a finite number: then each is finite, and no other memory was touched."""
    return bool(torch.isfinite(tensor.sum()))


def overflow(read: str = "inputs") -> str:
    """What to say where a product of finite weights and what they are multiplied with is beyond float32."""
    return f"weight, {read}: expected outputs within float32, got an overflow; scale one of them down"


def require_no_overflow(*outputs: Tensor, read: str = "inputs") -> None:
    """Raise ValueError where a product of finite weights and inputs is beyond float32."""
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise ValueError(overflow(read))


def require_importance(name: str, tensor: Tensor) -> None:
    """Raise ValueError where a scale or score is NaN, infinite or negative."""
    require_finite_tensor(name, tensor)
    negative = tensor < 0
    if bool(negative.any()):
        raise ValueError(_first_offender(name, tensor, negative, "values >= 0"))


def _first_offender(name: str, tensor: Tensor, bad: Tensor, expected: str) -> str:
    position = bad.nonzero()[0].tolist()
    value = tensor[tuple(position)].item()
    return f"{name}: expected {expected}, got {value} at {position} ({int(bad.sum())} of {tensor.numel()} values)"


def apart(read: Read, written: Tensor) -> Read:
    """A tensor to be read, or a copy of it if it lies in the memory of one that is about to change."""
    if read is None or read.untyped_storage().data_ptr() != written.untyped_storage().data_ptr():
        return read
    return read.clone()
