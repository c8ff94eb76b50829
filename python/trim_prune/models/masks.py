"""masks.safetensors of an output, block by block; the format is that of formats/masks.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ..formats.masks import MASK_FILE, mask_metadata
from .discover import Linear
from .shards import make_file


def make_masks(folder: Path, linears: Sequence[Linear]) -> None:
    """The file for some linears: all bits zero, or what was in their place."""
    shapes = {linear.weight_name: tuple(linear.module.weight.shape) for linear in linears}
    packed = {name: (rows, -(-columns // 8)) for name, (rows, columns) in sorted(shapes.items())}
    make_file(folder / MASK_FILE, packed, mask_metadata(shapes))


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
