"""The native CPU library: found, loaded with ctypes, called with pointers and sizes."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trim_kernels.scoring import OVERFLOW, require_finite, require_finite_tensor, require_not_negative

LIBRARY = Path(__file__).with_name("lib") / f"libtrim_kernels_cpu{'.dylib' if sys.platform == 'darwin' else '.so'}"

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ABI = 1
"""TK_ABI of trim_kernels.h."""
_BAD_VALUE, _OUT_OF_MEMORY, _OVERFLOW = 1, 2, 4


_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "row_threshold": (_POINTER, _POINTER, _POINTER),
    "row_mask": (_POINTER, _INT, _POINTER),
    "prune_rows": (_POINTER, _POINTER),
    "row_order": (_POINTER,),
    "row_quality": (_POINTER, _POINTER, _SIZE, _POINTER),
    "allocate_rows": (_POINTER, _SIZE, _POINTER, _POINTER, _POINTER),
}
"""What each function of trim_kernels.h takes between the scored weight and the number of threads."""


class _Scored(ctypes.Structure):
    """tk_scored of trim_kernels.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("column_scale", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
        ("score_stride", ctypes.c_int64),
    )


class Search(ctypes.Structure):
    """tk_search of trim_kernels.h."""

    _fields_ = (
        ("layer_metric", ctypes.c_int),
        ("row_metric", ctypes.c_int),
        ("exact", ctypes.c_int32),
        ("sparsity", ctypes.c_double),
        ("max_sparsity", ctypes.c_double),
        ("total", ctypes.c_int64),
        ("cap", ctypes.c_int64),
        ("rates", ctypes.POINTER(ctypes.c_double)),
        ("positive_rates", ctypes.c_int64),
        ("negative_rates", ctypes.c_int64),
        ("iterations", ctypes.c_int64),
    )


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if not LIBRARY.exists():
        return f"{LIBRARY} is not built (a C++ compiler was missing at installation; reinstall with one)"
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY} does not load: {error}"
    if not hasattr(library, "tk_abi") or library.tk_abi() != _ABI:
        return f"{LIBRARY} was built from other sources than this package; reinstall it"
    for name, middle in _SIGNATURES.items():
        getattr(library, f"tk_{name}").argtypes = (ctypes.POINTER(_Scored), *middle, _INT)
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
    weight = call["weight"]
    if isinstance(weight, Tensor) and weight.device.type != "cpu":
        return f"the weight is on {weight.device}"
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


def call(function: str, weight: Tensor, column_scale: Tensor | None, score: Tensor | None, *arguments: object) -> None:
    """Call ``tk_<function>`` on a scored weight whose columns are contiguous; tensors are passed as pointers.

    Raises:
        ValueError: a NaN or infinity was met.
        MemoryError: scratch memory could not be had.
    """
    if column_scale is not None:
        # The kernels check what they read once; the scale is read in every row, so it is checked here.
        require_finite_tensor("column_scale", column_scale)
        require_not_negative("column_scale", column_scale)
    scale = None if column_scale is None else column_scale.contiguous()
    matrix = None if score is None else unit_stride(score)
    scored = _Scored(
        weight.data_ptr(),
        weight.shape[0],
        weight.shape[1],
        weight.stride(0),
        _DTYPES[weight.dtype],
        None if scale is None else scale.data_ptr(),
        None if matrix is None else matrix.data_ptr(),
        0 if matrix is None else matrix.stride(0),
    )
    pointers = [_as_pointer(argument) for argument in arguments]
    status = getattr(_loaded(), f"tk_{function}")(ctypes.byref(scored), *pointers, torch.get_num_threads())
    if status == _BAD_VALUE:
        require_finite(weight, column_scale, score)
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.is_floating_point():
                require_finite_tensor("inputs", argument)
    if status == _OVERFLOW:
        raise ValueError(OVERFLOW)
    if status == _OUT_OF_MEMORY:
        raise MemoryError(f"{function}: no scratch memory for rows of {weight.shape[1]} columns")
    if status != 0:
        raise RuntimeError(f"{function}: the native library returned status {status}")


def _as_pointer(argument: object) -> object:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return ctypes.addressof(argument) if isinstance(argument, ctypes.Structure) else argument


def unit_stride(matrix: Tensor) -> Tensor:
    """The matrix itself if the columns of a row lie side by side, else a copy that has them so."""
    return matrix if matrix.stride(1) == 1 or matrix.shape[1] == 1 else matrix.contiguous()
