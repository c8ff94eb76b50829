"""Masks for exchange: read from every form they come in, written as safetensors or for numpy. See docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trim_kernels import pack_bits, unpack_bits

from ..errors import TrimPruneError
from .files import new_file, open_tensors, read_about

MASK_FILE = "masks.safetensors"
MASK_FORMAT = "trim-prune-masks"
MASK_VERSION = "1"
SUFFIXES = (".safetensors", ".npz")

_POPULATION = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Packed masks by weight name, uint8 [R, ceil(C / 8)], bit 1 = kept, little bit order; each read when asked for.

    ``shapes``: [R, C] of each weight. ``where``: what they were read from, for messages.
    """

    where: str
    shapes: Mapping[str, tuple[int, int]]
    read: Callable[[str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        rows, columns = self.shapes[name]
        bits = self.read(name)
        if bits.dtype != torch.uint8 or bits.shape != (rows, (columns + 7) // 8):
            raise TrimPruneError(
                "a mask has not the shape that its file gives it",
                where=f"{self.where}, {name}",
                expected=f"uint8 [{rows}, {(columns + 7) // 8}]",
                got=f"{str(bits.dtype).removeprefix('torch.')} {list(bits.shape)}",
            )
        return bits

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def require_fit(self, name: str, weight: Tensor) -> None:
        """Refuse a weight of another shape than the mask's."""
        if tuple(weight.shape) != self.shapes[name]:
            raise TrimPruneError(
                "a mask does not fit its weight",
                where=name,
                expected=str(list(weight.shape)),
                got=str(list(self.shapes[name])),
                fix="give the folder of the model that the masks are of",
            )

    def kept(self, name: str) -> Tensor:
        """The mask as bools [R, C]."""
        return unpack_bits(self[name], self.shapes[name][1])


@dataclass(frozen=True)
class Overlap:
    """How two masks of a weight agree: of ``weights``, kept by the first, by the second, and by both."""

    weights: int
    first: int
    second: int
    both: int

    @property
    def share(self) -> float:
        """Intersection over union of the kept weights, from 0 to 1; 1 where neither keeps any."""
        union = self.first + self.second - self.both
        return self.both / union if union else 1.0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.weights + other.weights, self.first + other.first, self.second + other.second, self.both + other.both
        )


def save_masks(masks: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Write packed masks: as masks.safetensors are, or by the suffix ``.npz`` for numpy."""
    if path.suffix == ".npz":
        _save_numpy(masks, shapes, path)
        return
    save_file({name: mask.contiguous() for name, mask in masks.items()}, path, mask_metadata(shapes))


def mask_metadata(shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """What the header of masks.safetensors says, for weights of these shapes."""
    about = {
        "format": MASK_FORMAT,
        "version": MASK_VERSION,
        "bit_order": "little",
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }
    # One key: safetensors writes several in an order that changes from run to run.
    return {MASK_FORMAT: json.dumps(about, sort_keys=True)}


def export_masks(masks: Masks, path: str | Path, overwrite: bool = False) -> None:
    """Write masks to a file of their own, ``.safetensors`` or ``.npz``, which appears when it is whole."""
    path = Path(path).expanduser()
    require_suffix(path)
    with new_file(path, overwrite) as partial:
        save_masks(masks, masks.shapes, partial)


def require_suffix(path: Path) -> None:
    """Refuse a name that says no format."""
    if path.suffix not in SUFFIXES:
        raise TrimPruneError("masks are written to a file", where=str(path), expected=" or ".join(SUFFIXES))


def open_mask_file(path: Path) -> Masks:
    """The masks in a safetensors file."""
    with open_tensors(path) as file:
        about = read_about(path, (file.metadata() or {}).get(MASK_FORMAT), MASK_FORMAT, (MASK_VERSION,))
        found = set(file.keys())
    # Files from before bit_order was written have that order too.
    if about.get("bit_order", "little") != "little" or set(about.get("shapes", {})) != found:
        raise TrimPruneError(
            "the masks are not what their metadata says",
            where=str(path),
            expected="little bit order, and a shape for each mask",
        )
    shapes = {name: (int(shape[0]), int(shape[1])) for name, shape in about["shapes"].items()}

    def read(name: str) -> Tensor:
        with open_tensors(path) as file:
            mask: Tensor = file.get_tensor(name)
            return mask

    return Masks(str(path), shapes, read)


def overlap(first: Masks, second: Masks, name: str) -> Overlap:
    """How far two masks of one weight agree."""
    if first.shapes[name] != second.shapes[name]:
        raise TrimPruneError(
            f"masks of {name} differ in shape",
            where=f"{first.where} and {second.where}",
            expected=str(list(first.shapes[name])),
            got=str(list(second.shapes[name])),
            fix="compare masks of the same model",
        )
    rows, columns = first.shapes[name]
    a, b = first[name], second[name]
    return Overlap(rows * columns, *(count_bits(bits) for bits in (a, b, a & b)))


def intersect(sources: Sequence[Masks]) -> Masks:
    """What all of several masks keep, of the weights that all of them know."""
    first = sources[0]
    names = common_names(sources)

    def read(name: str) -> Tensor:
        bits = first[name]
        for other in sources[1:]:
            overlap(first, other, name)
            bits = bits & other[name]
        return bits

    return Masks(" and ".join(source.where for source in sources), {name: first.shapes[name] for name in names}, read)


def common_names(sources: Sequence[Masks]) -> list[str]:
    """The weights that all masks are of, in the order of the first; an error if there is none."""
    names = [name for name in sources[0] if all(name in other.shapes for other in sources[1:])]
    if not names:
        raise TrimPruneError(
            "the masks have no weight in common",
            where=" and ".join(source.where for source in sources),
            got=", ".join(next(iter(source), "no mask") for source in sources),
            fix="compare masks of the same model",
        )
    return names


def count_bits(bits: Tensor) -> int:
    """How many bits of a packed mask are 1."""
    return int(_POPULATION[bits.int()].sum(dtype=torch.int64))


def masks_of(kept: Mapping[str, Tensor], where: str) -> Masks:
    """Masks from bools [R, C] by weight name."""
    shapes = {name: (mask.shape[0], mask.shape[1]) for name, mask in kept.items()}
    return Masks(where, shapes, lambda name: pack_bits(kept[name]))


def _save_numpy(masks: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for name, mask in masks.items():
        # numpy's own order, so that numpy.unpackbits(bits, axis=1, count=columns) needs no other argument.
        arrays[name] = np.packbits(unpack_bits(mask, shapes[name][1]).numpy(), axis=1)
        arrays[f"{name}.shape"] = np.array(shapes[name], dtype=np.int64)
    np.savez(path, **arrays)
