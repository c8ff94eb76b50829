"""Bytes that a prune writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..models.companions import companion_files
from ..models.shards import INDEX_FILE, shards_of

HEADER = 160
"""Of a file of masks, for each of them: about its name, type, shape and place."""


def weight_bytes(folder: Path, model: nn.Module) -> int:
    """Of the weight files of a folder; of files that are not there, as the index says or the model is computed."""
    shards = shards_of(folder)
    if shards is not None:
        return sum((folder / file).stat().st_size for file in shards.files)
    if (folder / INDEX_FILE).is_file():
        size = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
        if isinstance(size, int):
            return size
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def output_bytes(folder: Path, weights: int, masked: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Of the output: weight files, a bit for each weight of the linears [R, C], and what stands beside the weights."""
    return {
        "weights": weights,
        "masks": sum(rows * -(-columns // 8) + HEADER for rows, columns in masked),
        "configuration and tokenizer": sum(file.stat().st_size for file in companion_files(folder)),
    }
