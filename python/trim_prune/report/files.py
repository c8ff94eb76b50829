"""What a pruned model takes on disk, and would take in a packed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import TrimPruneError
from ..formats.files import open_tensors
from ..formats.masks import MASK_FILE, count_bits
from ..formats.packed import INDICES, MASK, VALUES, open_packed
from ..models.load import PACKED_FILE
from .masks import masks_of_run

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8}


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes: ``weights`` and ``masks`` as they are, ``packed`` if only the weights that are left were stored.

    Packed is computed: one bit for each weight of a tensor with a mask, and the values of those that stay. Of a packed
    folder ``packed`` is as it is, ``weights`` computed, and there are no ``masks``.
    """
    if (folder / PACKED_FILE).is_file():
        return _packed_sizes(folder)
    masks = masks_of_run(folder)
    weights, saved = weight_bytes(folder), 0.0
    for file in _weight_files(folder):
        with open_tensors(file) as tensors:
            for name in masks.shapes.keys() & set(tensors.keys()):
                bits, size = BITS.get(tensors.get_slice(name).get_dtype(), 0), math.prod(masks.shapes[name])
                saved += ((size - count_bits(masks[name])) * bits - size) / 8
    return {"weights": weights, "masks": (folder / MASK_FILE).stat().st_size, "packed": round(weights - saved)}


def model_sizes(folder: Path) -> dict[str, int]:
    """As :func:`file_sizes`, of a folder that need not have masks: ``packed`` only of a packed one."""
    return _packed_sizes(folder) if (folder / PACKED_FILE).is_file() else {"weights": weight_bytes(folder)}


def weight_bytes(folder: Path) -> int:
    """Of the weight files.

    Raises:
        TrimPruneError: there are none.
    """
    files = _weight_files(folder)
    if not files:
        raise TrimPruneError(
            "the model folder has no weights",
            where=str(folder),
            expected="model.safetensors, or its shards",
            fix="put the weights back, or prune again: a report tells what they take",
        )
    return sum(file.stat().st_size for file in files)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _packed_sizes(folder: Path) -> dict[str, int]:
    contents, stored, saved = open_packed(folder).contents, 0, 0
    for shard in contents.shards:
        stored += (folder / shard).stat().st_size
        with open_tensors(folder / shard) as tensors:
            parts = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - not a dict
        for name, packed in contents.tensors.items():
            if name + VALUES in parts:
                own = [parts[name + part] for part in (VALUES, MASK, INDICES) if name + part in parts]
                saved += _bytes(own[0].get_dtype(), packed.shape)
                saved -= sum(_bytes(part.get_dtype(), part.get_shape()) for part in own)
    return {"weights": stored + saved, "packed": stored}


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * BITS[dtype] // 8
