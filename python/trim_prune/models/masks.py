"""Packed masks over the parameters of a model, and masks.safetensors of an output; the format: formats/masks.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from trim_kernels import pack_bits, unpack_bits

from ..formats.masks import MASK_FILE, mask_metadata, packed_shape
from .discover import Linear
from .shards import make_file


def add_mask(masks: dict[str, Tensor], linear: Linear, kept: Tensor) -> None:
    """Add what is kept of a linear (uint8 [R, ceil(C/8)]) to the mask of the parameter that holds its weight."""
    if linear.transposed:
        kept = pack_bits(unpack_bits(kept, linear.shape[1]).t().contiguous())
    if linear.expert is None:
        masks[linear.weight_name] = kept
        return
    if linear.weight_name not in masks:
        masks[linear.weight_name] = torch.zeros(packed_shape(tuple(linear.whole.shape)), dtype=torch.uint8)
    masks[linear.weight_name][linear.expert] = kept


def make_masks(folder: Path, shapes: Mapping[str, tuple[int, ...]], transposed: Set[str]) -> None:
    """The file for tensors of these shapes: all bits zero, or what was in their place."""
    packed = {name: packed_shape(shape) for name, shape in sorted(shapes.items())}
    make_file(folder / MASK_FILE, packed, mask_metadata(shapes, transposed))


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
