"""Masks that others wrote: numpy's packed bits, and what TRIM's own script leaves behind."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trim_kernels import pack_bits

from ..errors import TrimPruneError
from .masks import SHAPE, TRANSPOSED, Masks, pack, packed_shape

_UNLIKE = (KeyError, TypeError, ValueError, AttributeError)
"""What comes of a pickle that holds something else."""


def open_numpy_masks(path: Path) -> Masks:
    """The masks in a ``.npz`` file: ``name`` = packbits(kept, axis=-1), in big bit order, ``name.shape`` = [..., C].

    ``name.transposed`` = True beside a weight whose matrices are [inputs, outputs].
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if not name.endswith((SHAPE, TRANSPOSED))]
            shapes = {name: tuple(map(int, file[name + SHAPE])) for name in names}
            transposed = frozenset(name for name in names if name + TRANSPOSED in file.files)
            if any(len(shape) < 2 for shape in shapes.values()):
                raise ValueError("a shape of fewer than two dimensions")
            if not names:
                raise ValueError("no mask in it")
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error

    def read(name: str) -> Tensor:
        try:
            with np.load(path, allow_pickle=False) as file:
                packed = file[name]
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise _unreadable(path, error) from error
        # numpy takes bytes that are missing for zeros, as pruned.
        _require_bytes(path, name, packed, packed_shape(shapes[name]))
        return pack(torch.from_numpy(np.unpackbits(packed, axis=-1, count=shapes[name][-1])).bool())

    return Masks(str(path), shapes, read, transposed)


def open_script_masks(path: Path) -> Masks:
    """The masks that TRIM's script saves with ``--save_masks``: bits of the whole flat matrix, 1 = pruned.

    The file is a pickle; only tensors and plain values are taken from it, and no code of it is run.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        about, masks = saved["metadata"], saved["masks"]
        blocks = "model.decoder.layers" if about["is_opt"] else "model.layers"
        places = {
            f"{blocks}.{block}.{name}.weight": info
            for block, linears in about["layer_info"].items()
            for name, info in linears.items()
        }
        shapes = {name: (int(info["shape"][0]), int(info["shape"][1])) for name, info in places.items()}
        packed = {name: masks[info["mask_key"]].numpy() for name, info in places.items()}
        if not packed:
            raise ValueError("no mask in it")
    except (*_UNLIKE, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error

    def read(name: str) -> Tensor:
        rows, columns = shapes[name]
        _require_bytes(path, name, packed[name], (ceil(rows * columns / 8),))
        bits = np.unpackbits(packed[name], count=rows * columns)
        return pack_bits(torch.from_numpy(bits == 0).view(rows, columns))

    return Masks(str(path), shapes, read)


def _require_bytes(path: Path, name: str, packed: np.ndarray, shape: tuple[int, ...]) -> None:
    if packed.dtype != np.uint8 or packed.shape != shape:
        raise TrimPruneError(
            "a mask has not the bytes of its shape",
            where=f"{path}, {name}",
            expected=f"uint8 {list(shape)}",
            got=f"{packed.dtype} {list(packed.shape)}",
        )


def _unreadable(path: Path, error: Exception) -> TrimPruneError:
    got: Any = (str(error).splitlines() or [""])[0]
    return TrimPruneError(
        "no masks can be read from this file",
        where=str(path),
        expected="masks.safetensors; numpy's .npz as docs/formats.md has it; or what TRIM's script saves",
        got=f"{type(error).__name__}: {got}",
    )
