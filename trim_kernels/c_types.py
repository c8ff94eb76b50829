"""What the CPU and the CUDA library share: how they are opened, and the structs of trim_kernels.h from tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""tk_dtype."""


class Pointing(ctypes.Structure):
    """A struct of pointers into tensors, which live as long as it does."""

    tensors: tuple[Tensor | None, ...] = ()


class Scored(Pointing):
    """tk_scored."""

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


class Activations(Pointing):
    """tk_activations."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("token_mask", ctypes.c_void_p),
    )


class Elimination(Pointing):
    """tk_elimination."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("kept", ctypes.c_void_p),
        ("kept_stride", ctypes.c_int64),
        ("factor", ctypes.c_void_p),
        ("errors", ctypes.c_void_p),
        ("errors_stride", ctypes.c_int64),
    )


class Packing(Pointing):
    """tk_packing."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("kept", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
    )


class Search(Pointing):
    """tk_search."""

    _fields_ = (
        ("layer_metric", ctypes.c_int),
        ("row_metric", ctypes.c_int),
        ("exact", ctypes.c_int32),
        ("sparsity", ctypes.c_double),
        ("max_sparsity", ctypes.c_double),
        ("total", ctypes.c_int64),
        ("cap", ctypes.c_int64),
        ("rates", ctypes.c_void_p),
        ("positive_rates", ctypes.c_int64),
        ("negative_rates", ctypes.c_int64),
        ("iterations", ctypes.c_int64),
    )


def scored(weight: Tensor, column_scale: Tensor | None, score: Tensor | None) -> Scored:
    """A scored weight whose columns have unit stride."""
    scale = None if column_scale is None else column_scale.contiguous()
    matrix = None if score is None else unit_stride(score)
    struct = Scored(
        weight.data_ptr(),
        weight.shape[0],
        weight.shape[1],
        weight.stride(0),
        DTYPES[weight.dtype],
        as_pointer(scale),
        as_pointer(matrix),
        0 if matrix is None else matrix.stride(0),
    )
    struct.tensors = (weight, scale, matrix)
    return struct


def activations(x: Tensor, token_mask: Tensor | None) -> Activations:
    """Activations [T, C] and which tokens count."""
    rows = unit_stride(x)
    mask = None if token_mask is None else token_mask.contiguous()
    struct = Activations(
        rows.data_ptr(), rows.shape[0], rows.shape[1], rows.stride(0), DTYPES[rows.dtype], as_pointer(mask)
    )
    struct.tensors = (rows, mask)
    return struct


def elimination(weight: Tensor, kept: Tensor, factor: Tensor, errors: Tensor) -> Elimination:
    """The struct of a block of columns; weight and errors have unit column stride."""
    kept_rows, triangle = unit_stride(kept), factor.contiguous()
    struct = Elimination(
        weight.data_ptr(),
        *weight.shape,
        weight.stride(0),
        kept_rows.data_ptr(),
        kept_rows.stride(0),
        triangle.data_ptr(),
        errors.data_ptr(),
        errors.stride(0),
    )
    struct.tensors = (weight, kept_rows, triangle, errors)
    return struct


def packing(kept: Tensor, columns: int, starts: Tensor, weight: Tensor | None, values: Tensor | None) -> Packing:
    """Packed bits [R, ceil(C / 8)] and what they are about; the weight has unit column stride."""
    bits = kept.contiguous()
    struct = Packing(
        as_pointer(weight),
        bits.shape[0],
        columns,
        0 if weight is None else weight.stride(0),
        0 if weight is None else DTYPES[weight.dtype],
        bits.data_ptr(),
        as_pointer(values),
        starts.data_ptr(),
    )
    struct.tensors = (weight, bits, values, starts)
    return struct


def as_pointer(argument: object) -> object:
    """Tensors and structs as their addresses, all else as it is."""
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return ctypes.addressof(argument) if isinstance(argument, ctypes.Structure) else argument


def open_library(path: Path, compiler: str, prefix: str, abi: int) -> ctypes.CDLL | str:
    """The library at ``path`` whose functions begin with ``prefix`` and that has this ABI, or why there is none."""
    if not path.exists():
        return f"{path} is not built ({compiler} was missing at installation; reinstall with one)"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} does not load: {error}"
    if not hasattr(library, f"{prefix}abi") or getattr(library, f"{prefix}abi")() != abi:
        return f"{path} was built from other sources than this package; reinstall it"
    return library


def unit_stride(matrix: Tensor) -> Tensor:
    """The matrix itself if the columns of a row lie side by side, else a copy that has them so."""
    return matrix if matrix.stride(1) == 1 or matrix.shape[1] == 1 else matrix.contiguous()
