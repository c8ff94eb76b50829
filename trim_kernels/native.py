"""The native CPU library: found, loaded with ctypes, called with pointers and sizes."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trim_kernels.c_types import (
    Activations,
    Elimination,
    Packing,
    Scored,
    activations,
    as_pointer,
    elimination,
    open_library,
    packing,
    scored,
)
from trim_kernels.scoring import apart, overflow, require_finite, require_finite_tensor, require_importance

LIBRARY = Path(__file__).with_name("lib") / f"libtrim_kernels_cpu{'.dylib' if sys.platform == 'darwin' else '.so'}"

_ABI = 5
"""TK_ABI of trim_kernels.h."""
_BAD_VALUE, _OUT_OF_MEMORY, _OVERFLOW = 1, 2, 4


_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "row_threshold": (_POINTER, _POINTER, _POINTER),
    "row_mask": (_POINTER, _INT, _POINTER),
    "prune_rows": (_POINTER, _POINTER),
    "row_order": (_POINTER,),
    "row_quality": (_POINTER, _POINTER, _SIZE, _POINTER),
    "row_error_curve": (_POINTER, _SIZE, _SIZE, _SIZE, _POINTER),
    "allocate_rows": (_POINTER, _SIZE, _POINTER, _POINTER, _POINTER),
    "nm_rank": (_INT, _POINTER),
    "nm_mask": (_INT, _INT, _INT, _POINTER),
    "prune_nm": (_INT, _INT),
    "column_sqnorm": (_POINTER, _INT),
    "gram": (_POINTER, _SIZE),
    "obs_update": (),
    "packing_starts": (),
    "pack_values": (),
    "unpack_values": (),
}
"""What each function of trim_kernels.h takes between its struct and the number of threads."""
_FIRST = {
    "column_sqnorm": Activations,
    "gram": Activations,
    "obs_update": Elimination,
    "packing_starts": Packing,
    "pack_values": Packing,
    "unpack_values": Packing,
}
"""Which struct comes first, where that is not Scored."""


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    library = open_library(LIBRARY, "a C++ compiler", "tk_", _ABI)
    if isinstance(library, str):
        return library
    for name, middle in _SIGNATURES.items():
        first = _FIRST.get(name, Scored)
        getattr(library, f"tk_{name}").argtypes = (ctypes.POINTER(first), *middle, _INT)
    library.tk_instruction_set.restype = ctypes.c_char_p
    library.tk_use_instruction_set.argtypes = (ctypes.c_char_p,)
    return library


def _loaded() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


def refusal(call: Mapping[str, object]) -> str | None:
    """Why the native CPU backend cannot run this call."""
    for name, what in (("weight", "the weight"), ("x", "x"), ("values", "the values")):
        tensor = call.get(name)
        if isinstance(tensor, Tensor) and tensor.device.type != "cpu":
            return f"{what} is on {tensor.device}"
    library = _load()
    return library if isinstance(library, str) else None


def instruction_set() -> str | None:
    """What the native kernels use: "avx512", "avx2" or "baseline"; None without the library."""
    library = _load()
    return None if isinstance(library, str) else library.tk_instruction_set().decode()


def use_instruction_set(name: str) -> None:
    """Use another instruction set of the library, for tests and benchmarks.

    Raises:
        ValueError: this processor or this library does not have it.
    """
    if _loaded().tk_use_instruction_set(name.encode()) != 0:
        raise ValueError(f"name: expected an instruction set of this processor, got {name!r}")


def call(
    function: str,
    weight: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    *arguments: object,
    read: str = "inputs",
) -> None:
    """Call ``tk_<function>`` on a scored weight whose columns are contiguous; tensors are passed as pointers.

    ``read`` names the tensor of numbers among ``arguments`` that is multiplied with the weight.

    Raises:
        ValueError: a NaN or infinity was met.
        MemoryError: scratch memory could not be had.
    """
    if column_scale is not None:
        # The kernels check what they read once; the scale is read in every row, so it is checked here.
        require_importance("column_scale", column_scale)
    status = _run(function, scored(weight, column_scale, score), *arguments)
    if status == _BAD_VALUE:
        require_finite(weight, column_scale, score)
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.is_floating_point():
                require_finite_tensor(read, argument)
    if status == _OVERFLOW:
        raise ValueError(overflow(read))
    _require_success(function, status, weight.shape[1])


def accumulate(function: str, acc: Tensor, x: Tensor, token_mask: Tensor | None, *arguments: object) -> None:
    """Call ``tk_<function>`` to add what it finds in ``x``, which may be a view of it, to ``acc`` of unit stride.

    Raises:
        MemoryError: scratch memory could not be had.
    """
    read = activations(apart(x, acc), token_mask)
    _require_success(function, _run(function, read, acc, *arguments), x.shape[1])


def eliminate(weight: Tensor, kept: Tensor, factor: Tensor, errors: Tensor) -> None:
    """Call ``tk_obs_update`` on a block of columns of unit stride.

    Raises:
        MemoryError: scratch memory could not be had.
    """
    _require_success("obs_update", _run("obs_update", elimination(weight, kept, factor, errors)), weight.shape[1])


def packing_starts(kept: Tensor, columns: int) -> Tensor:
    """Call ``tk_packing_starts``: how many weights are kept before each row, and in all, int64 [R + 1]."""
    starts = torch.empty(kept.shape[0] + 1, dtype=torch.int64)
    move("packing_starts", packing(kept, columns, starts, None, None))
    return starts


def move(function: str, what: Packing) -> None:
    """Call ``tk_<function>``, which knows no errors of values."""
    _require_success(function, _run(function, what), what.columns)


def _run(function: str, first: ctypes.Structure, *arguments: object) -> int:
    pointers = [as_pointer(argument) for argument in arguments]
    status: int = getattr(_loaded(), f"tk_{function}")(ctypes.byref(first), *pointers, torch.get_num_threads())
    return status


def _require_success(function: str, status: int, columns: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError(f"{function}: no scratch memory for rows of {columns} columns")
    if status != 0:
        raise RuntimeError(f"{function}: the native library returned status {status}")
