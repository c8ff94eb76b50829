"""masks.safetensors: per weight uint8 [R, ceil(C/8)], bit 1 = kept, little bit order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .discover import Linear
from .shards import make_file

MASK_FILE = "masks.safetensors"
MASK_FORMAT = "trim-prune-masks"
MASK_VERSION = "1"


def make_masks(folder: Path, linears: Sequence[Linear]) -> None:
    """The file for some linears: all bits zero, or what was in their place."""
    shapes = {linear.weight_name: tuple(linear.module.weight.shape) for linear in linears}
    about = {"format": MASK_FORMAT, "version": MASK_VERSION, "shapes": shapes}
    packed = {name: (rows, -(-columns // 8)) for name, (rows, columns) in sorted(shapes.items())}
    # One key: safetensors writes several in an order that changes from run to run.
    make_file(folder / MASK_FILE, packed, {MASK_FORMAT: json.dumps(about, sort_keys=True)})


class WrittenMasks(Mapping[str, Tensor]):
    """The masks of a pruned model folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / MASK_FILE

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._file, "pt") as file:
            if name not in file.keys():  # noqa: SIM118 - not a dict
                raise KeyError(name)
            mask: Tensor = file.get_tensor(name)
        return mask

    def __iter__(self) -> Iterator[str]:
        with safe_open(self._file, "pt") as file:
            return iter(file.keys())

    def __len__(self) -> int:
        return len(list(iter(self)))
