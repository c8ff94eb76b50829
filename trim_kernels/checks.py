"""Checks of what callers pass in: each message names the argument, what was expected and what came.

Only facts that need no data are checked here, so that the public functions stay traceable by torch.compile. Values
(NaN, prune counts out of range) are checked inside the operators, where the data is read anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_GROUP = 32
"""The most columns of a group of which some are kept (keep n of m)."""


def describe(value: object) -> str:
    """What came, in the words of an error message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def check_weight(weight: Tensor) -> None:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or weight.dtype not in WEIGHT_DTYPES or weight.shape[1] == 0:
        raise ValueError(
            "weight: expected a float32, bfloat16 or float16 matrix [R, C] with at least one column, "
            f"got {describe(weight)}"
        )


def check_scoring(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> None:
    if column_scale is not None and score is not None:
        raise ValueError("column_scale, score: expected at most one of the two, got both")
    if column_scale is not None:
        check_tensor("column_scale", column_scale, (weight.shape[1],), torch.float32, weight.device)
    if score is not None:
        check_tensor("score", score, tuple(weight.shape), torch.float32, weight.device)


def check_tensor(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype or value.device != device:
        wanted = f"{str(dtype).removeprefix('torch.')} {list(shape)} on {device}"
        raise ValueError(f"{name}: expected {wanted}, got {describe(value)}")


def check_inputs(weight: Tensor, inputs: Tensor) -> None:
    if (
        not isinstance(inputs, Tensor)
        or inputs.dim() != 2
        or inputs.shape[0] != weight.shape[1]
        or inputs.shape[1] == 0
        or inputs.dtype not in WEIGHT_DTYPES
        or inputs.device != weight.device
    ):
        raise ValueError(
            f"inputs: expected a float32, bfloat16 or float16 matrix [{weight.shape[1]}, N] with N >= 1 "
            f"on {weight.device}, got {describe(inputs)}"
        )


def check_gram_of(weight: Tensor, gram: Tensor) -> None:
    columns = weight.shape[1]
    check_tensor("gram", gram, (columns, columns), torch.float32, weight.device)


def check_band(first_count: int, last_count: int, columns: int) -> None:
    _check_int("last_count", last_count, 0, columns)
    _check_int("first_count", first_count, 0, last_count)


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}: expected an int from {low} to {high}, got {describe(value)}")


def check_call(op: str, call: Mapping[str, Any]) -> None:
    """Check the arguments of an operator, by name: what the kernels read must be as large as they think it is."""
    if "acc" in call:
        check_activations(call["x"], call["token_mask"])
        check_accumulator(op, call["acc"], call["x"])
        return
    if "factor" in call:
        check_elimination(call["weight"], call["kept"], call["factor"])
        return
    if "values" in call:
        check_values(call["values"], call["kept"], call["columns"])
        return
    check_weight(call["weight"])
    if op == "pack_values":
        weight = call["weight"]
        check_kept(call["kept"], weight.shape[0], weight.shape[1], weight.device)
        return
    if "of" in call:
        check_keep_of(call.get("keep", 0), call["of"])
    check_scoring(call["weight"], call["column_scale"], call["score"])
    if "prune_count" in call:
        as_prune_count(call["weight"], call["prune_count"])
    if "inputs" in call:
        check_inputs(call["weight"], call["inputs"])
    if "gram" in call:
        check_gram_of(call["weight"], call["gram"])
        check_band(call["first_count"], call["last_count"], call["weight"].shape[1])


def as_prune_count(weight: Tensor, prune_count: int | Tensor) -> Tensor:
    """The prune counts as int32 [R]; an int means the same count in every row."""
    rows, columns = weight.shape
    if isinstance(prune_count, Tensor):
        check_tensor("prune_count", prune_count, (rows,), torch.int32, weight.device)
        return prune_count
    if isinstance(prune_count, bool) or not isinstance(prune_count, int) or not 0 <= prune_count <= columns:
        raise ValueError(
            f"prune_count: expected an int from 0 to {columns} or an int32 tensor [{rows}], got {describe(prune_count)}"
        )
    return torch.full((rows,), prune_count, dtype=torch.int32, device=weight.device)


def require_counts_in_range(prune_count: Tensor, columns: int) -> None:
    """Raise ValueError when a row is asked to lose fewer than 0 or more than all of its weights."""
    outside = (prune_count < 0) | (prune_count > columns)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(f"prune_count: expected values from 0 to {columns}, got {int(prune_count[row])} at row {row}")


def check_writable(tensor: Tensor, name: str = "weight") -> None:
    overlaps = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if overlaps:
        raise ValueError(
            f"{name}: expected a tensor whose elements have their own memory, got an expanded one; clone it"
        )


def check_of(of: int) -> None:
    _check_int("of", of, 1, LARGEST_GROUP)


def check_keep_of(keep: int, of: int) -> None:
    check_of(of)
    _check_int("keep", keep, 0, of)


def check_activations(x: Tensor, token_mask: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] == 0 or x.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"x: expected a float32, bfloat16 or float16 matrix [T, C] with C >= 1, got {describe(x)}")
    if token_mask is not None:
        check_tensor("token_mask", token_mask, (x.shape[0],), torch.bool, x.device)


def check_accumulator(op: str, acc: Tensor, x: Tensor) -> None:
    columns = x.shape[1]
    shape, dtypes = {
        "column_sqnorm_": ((columns,), (torch.float32, torch.float64)),
        "gram_": ((columns, columns), (torch.float32,)),
    }[op]
    if not isinstance(acc, Tensor) or acc.shape != shape or acc.dtype not in dtypes or acc.device != x.device:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"acc: expected {names} {list(shape)} on {x.device}, got {describe(acc)}")
    check_writable(acc, "acc")


def check_kept(kept: Tensor, rows: int, columns: int, device: torch.device) -> None:
    check_tensor("kept", kept, (rows, (columns + 7) // 8), torch.uint8, device)


def check_values(values: Tensor, kept: Tensor, columns: int) -> None:
    if not isinstance(values, Tensor) or values.dim() != 1 or values.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"values: expected a float32, bfloat16 or float16 vector, got {describe(values)}")
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ValueError(f"columns: expected an int of at least 1, got {describe(columns)}")
    rows = kept.shape[0] if isinstance(kept, Tensor) and kept.dim() == 2 else 0
    check_kept(kept, rows, columns, values.device)


def require_as_many(values: Tensor, kept: int) -> None:
    """Raise ValueError unless there is a value for each weight that is kept."""
    if values.numel() != kept:
        raise ValueError(f"values: expected {kept}, one for each kept weight, got {values.numel()}")


def check_elimination(weight: Tensor, kept: Tensor, factor: Tensor) -> None:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or weight.dtype != torch.float32 or weight.shape[1] == 0:
        raise ValueError(
            f"weight: expected a float32 matrix [R, C] with at least one column (updates are lost in half precision: "
            f"convert it, and back afterwards), got {describe(weight)}"
        )
    check_writable(weight)
    columns = weight.shape[1]
    check_tensor("kept", kept, tuple(weight.shape), torch.bool, weight.device)
    check_tensor("factor", factor, (columns, columns), torch.float32, weight.device)
