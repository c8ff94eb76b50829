"""What a pruned model takes on disk, and would take in a packed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from ..formats.masks import MASK_FILE
from .run import Linear

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}


def file_sizes(folder: Path, linears: Sequence[Linear]) -> dict[str, int]:
    """Bytes: ``weights`` and ``masks`` as they are, ``packed`` if only the weights that are left were stored.

    Packed is computed: one bit for each weight of a pruned linear, and the values of those that stay.
    """
    pruned = {f"{linear['name']}.weight": linear for linear in linears}
    weights, saved = 0, 0.0
    for file in sorted(folder.glob("model*.safetensors")):
        weights += file.stat().st_size
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if (linear := _find(pruned, name)) is not None:
                    bits = BITS.get(tensors.get_slice(name).get_dtype(), 0)
                    saved += (linear["prune_count"] * bits - math.prod(linear["shape"])) / 8
    return {"weights": weights, "masks": (folder / MASK_FILE).stat().st_size, "packed": round(weights - saved)}


def _find(pruned: dict[str, Linear], name: str) -> Linear | None:
    # Checkpoints of the bare model lack the prefix that the causal model gives its names.
    same = (known for known in pruned if known == name or known.endswith(f".{name}") or name.endswith(f".{known}"))
    return next((pruned[known] for known in same), None)
