"""The CUDA library: found, loaded with ctypes, called with device pointers and the current stream."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trim_kernels.c_types import as_pointer, open_library
from trim_kernels.checks import require_counts_in_range
from trim_kernels.scoring import overflow, require_finite, require_finite_tensor, require_importance

LIBRARY = Path(__file__).with_name("lib") / "libtrim_kernels_cuda.so"
DEVICE = "cuda"
"""The type of the devices whose memory the library reads. Tests run the library on CPU tensors."""

_ABI = 4
"""TK_CUDA_ABI of trim_kernels_cuda.h."""
_BAD_VALUE, _OVERFLOW = 1, 2
_POINTER, _SIZE, _INT, _STRING = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_char_p


class _Call(ctypes.Structure):
    """tk_cuda_call of trim_kernels_cuda.h."""

    _fields_ = (("device", ctypes.c_int32), ("stream", ctypes.c_void_p), ("bad", ctypes.c_void_p))


class Selected(ctypes.Structure):
    """tk_cuda_selected of trim_kernels_cuda.h."""

    _fields_ = (
        ("key", ctypes.c_void_p),
        ("column", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("packed", ctypes.c_int32),
        ("prune", ctypes.c_int32),
    )


class Inputs(ctypes.Structure):
    """tk_cuda_inputs of trim_kernels_cuda.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("transposed", ctypes.c_int32),
    )


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "row_select": (_POINTER, _POINTER, _POINTER, _POINTER),
    "prune_rows": (_POINTER, _POINTER, _POINTER),
    "row_order": (_POINTER, _POINTER, _INT, _POINTER),
    "nm_rank": (_POINTER, _INT, _POINTER),
    "nm_select": (_POINTER, _INT, _INT, _POINTER, _INT),
    "column_sqnorm": (_POINTER, _POINTER, _INT, _POINTER),
    "gram": (_POINTER, _POINTER, _SIZE),
    "stage_inputs": (_POINTER, _POINTER, _INT, _SIZE, _POINTER),
    "row_products": (_POINTER,) * 7,
    "allocate_rows": (_POINTER,) * 10,
}
"""What each function of trim_kernels_cuda.h takes before the call."""
_SIZES: dict[str, tuple[Any, ...]] = {
    "row_select_scratch": (_SIZE, _SIZE, _INT),
    "row_order_scratch": (_SIZE, _SIZE, _INT),
    "column_sqnorm_splits": (_SIZE, _SIZE),
    "staged_bytes": (_POINTER, _INT, _SIZE),
    "padded_tokens": (_SIZE,),
    "quality_partials": (_SIZE,),
    "allocate_rows_scratch": (_SIZE, _SIZE, _SIZE),
}
"""Functions that answer with a size."""


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    library = open_library(LIBRARY, "nvcc", "tk_cuda_", _ABI)
    if isinstance(library, str):
        return library
    for name, arguments in _SIGNATURES.items():
        getattr(library, f"tk_cuda_{name}").argtypes = (*arguments, ctypes.POINTER(_Call))
    for name, arguments in _SIZES.items():
        function = getattr(library, f"tk_cuda_{name}")
        function.argtypes, function.restype = arguments, _SIZE
    library.tk_cuda_usable.argtypes = (_INT,)
    library.tk_cuda_error.argtypes, library.tk_cuda_error.restype = (_INT,), _STRING
    library.tk_cuda_architectures.restype = _STRING
    return library


def _loaded() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


_usable: set[int] = set()
"""Devices that have been found to run the kernels; an error may pass."""


def _device_refusal(index: int) -> str | None:
    if index in _usable:
        return None
    library = _loaded()
    error = library.tk_cuda_usable(index)
    if error == 0:
        _usable.add(index)
        return None
    return (
        f"{LIBRARY} has no kernels that run on device {index} ({library.tk_cuda_error(error).decode()}; "
        f"built for {library.tk_cuda_architectures().decode()})"
    )


def refusal(call: Mapping[str, object]) -> str | None:
    """Why the CUDA backend cannot run this call."""
    tensor = call.get("weight", call.get("x"))
    assert isinstance(tensor, Tensor)
    if tensor.device.type != DEVICE:
        return f"the {'weight' if 'weight' in call else 'x'} is on {tensor.device}"
    library = _load()
    return library if isinstance(library, str) else _device_refusal(tensor.device.index or 0)


def status() -> dict[str, object]:
    """What there is of the CUDA backend on this machine, and why it is not usable if it is not."""
    library = _load()
    built = LIBRARY.exists()
    facts: dict[str, object] = {"library": str(LIBRARY), "built": built, "architectures": []}
    if isinstance(library, str):
        return facts | {"usable": False, "why": library}
    facts["architectures"] = library.tk_cuda_architectures().decode().split()
    if not torch.cuda.is_available():
        return facts | {"usable": False, "why": "torch finds no CUDA device"}
    reasons = [_device_refusal(index) for index in range(torch.cuda.device_count())]
    return facts | {"usable": None in reasons, "why": None if None in reasons else reasons[0]}


def size(function: str, *arguments: object) -> int:
    """What ``tk_cuda_<function>`` answers."""
    return int(getattr(_loaded(), f"tk_cuda_{function}")(*map(as_pointer, arguments)))


def call(function: str, device: torch.device, *arguments: object, bad: Tensor | None = None) -> None:
    """Enqueue ``tk_cuda_<function>`` on the current stream of ``device``; tensors are passed as pointers.

    ``bad`` is int32 [1] on the device, 0: it becomes 1 where a bad value is met, see :func:`value_flag`.
    """
    library = _loaded()
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    where = _Call(device.index or 0, stream, None if bad is None else bad.data_ptr())
    pointers = [as_pointer(argument) for argument in arguments]
    error = getattr(library, f"tk_cuda_{function}")(*pointers, ctypes.byref(where))
    if error != 0:
        raise RuntimeError(f"{function}: CUDA error {error} on {device}: {library.tk_cuda_error(error).decode()}")


def value_flag(weight: Tensor, column_scale: Tensor | None, check_values: bool) -> Tensor | None:
    """Where the kernels of a call report bad values; None when nobody wants to know.

    Raises:
        ValueError: for a bad scale, at which the kernels do not look.
    """
    if not check_values:
        return None
    if column_scale is not None:
        require_importance("column_scale", column_scale)
    return torch.zeros(1, dtype=torch.int32, device=weight.device)


def require_good(
    bad: Tensor | None,
    weight: Tensor,
    column_scale: Tensor | None,
    score: Tensor | None,
    *,
    inputs: Tensor | None = None,
    prune_count: Tensor | None = None,
) -> None:
    """Wait for the kernels, and raise ValueError if they met a bad value, naming the first one."""
    found = 0 if bad is None else int(bad)
    if found & _BAD_VALUE:
        if prune_count is not None:
            require_counts_in_range(prune_count, weight.shape[1])
        require_finite(weight, column_scale, score)
        if inputs is not None:
            require_finite_tensor("inputs", inputs)
        raise RuntimeError("a CUDA kernel met a bad value that is gone; was a tensor changed meanwhile?")
    if found & _OVERFLOW:
        raise ValueError(overflow())
