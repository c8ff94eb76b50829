"""What a pruned model takes on disk, and would take in a packed form."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import safe_open

from ..formats.masks import MASK_FILE, count_bits
from .masks import masks_of_run

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes: ``weights`` and ``masks`` as they are, ``packed`` if only the weights that are left were stored.

    Packed is computed: one bit for each weight of a tensor with a mask, and the values of those that stay.
    """
    masks = masks_of_run(folder)
    weights, saved = weight_bytes(folder), 0.0
    for file in _weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in masks.shapes.keys() & set(tensors.keys()):
                bits, size = BITS.get(tensors.get_slice(name).get_dtype(), 0), math.prod(masks.shapes[name])
                saved += ((size - count_bits(masks[name])) * bits - size) / 8
    return {"weights": weights, "masks": (folder / MASK_FILE).stat().st_size, "packed": round(weights - saved)}


def weight_bytes(folder: Path) -> int:
    """Of the weight files."""
    return sum(file.stat().st_size for file in _weight_files(folder))


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))
