"""Masks for exchange: read from every form they come in, written as safetensors or for numpy. See docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
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
MASK_VERSION = "2"
READ_VERSIONS = ("1", MASK_VERSION)
SUFFIXES = (".safetensors", ".npz")
SHAPE, TRANSPOSED = ".shape", ".transposed"
"""What follows a weight's name in a file for numpy."""

_POPULATION = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class Masks(Mapping[str, Tensor]):
    """Packed masks by weight name, uint8 [..., ceil(C / 8)], bit 1 = kept, little bit order; each read when asked for.

    ``shapes``: [..., C] of each weight, [R, C] as a rule. ``where``: what they were read from, for messages.
    ``transposed``: the weights whose matrices are [inputs, outputs].
    """

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    transposed: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Tensor:
        shape = packed_shape(self.shapes[name])
        bits = self.read(name)
        if bits.dtype != torch.uint8 or tuple(bits.shape) != shape:
            raise TrimPruneError(
                "a mask has not the shape that its file gives it",
                where=f"{self.where}, {name}",
                expected=f"uint8 {list(shape)}",
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
        """The mask as bools, in the shape of the weight."""
        return unpack(self[name], self.shapes[name])

    @property
    def weights(self) -> int:
        """How many weights they are of."""
        return sum(map(prod, self.shapes.values()))


@dataclass(frozen=True)
class Overlap:
    """How two masks of a weight agree: of ``weights``, pruned by the first, by the second, and by both."""

    weights: int
    first: int
    second: int
    both: int

    @property
    def share(self) -> float | None:
        """Of what either prunes, the share that both prune; None where neither prunes any.

        1: the same weights. Two masks that know nothing of each other, of sparsity s, have s / (2 - s).
        """
        either = self.first + self.second - self.both
        return self.both / either if either else None

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.weights + other.weights, self.first + other.first, self.second + other.second, self.both + other.both
        )


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[..., ceil(C / 8)] of [..., C]."""
    return (*shape[:-1], (shape[-1] + 7) // 8)


def pack(kept: Tensor) -> Tensor:
    """uint8 [..., ceil(C/8)] of bools [..., C], bit 1 = True, little bit order."""
    return pack_bits(kept.reshape(-1, kept.shape[-1])).view(packed_shape(tuple(kept.shape)))


def unpack(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bools of that shape from uint8 [..., ceil(C/8)]: the inverse of :func:`pack`."""
    return unpack_bits(mask.reshape(prod(shape[:-1]), mask.shape[-1]), shape[-1]).view(shape)


def save_masks(masks: Masks, path: Path) -> None:
    """Write packed masks: as masks.safetensors are, or by the suffix ``.npz`` for numpy."""
    if path.suffix == ".npz":
        _save_numpy(masks, path)
        return
    metadata = mask_metadata(masks.shapes, masks.transposed)
    save_file({name: mask.contiguous() for name, mask in masks.items()}, path, metadata)


def mask_metadata(shapes: Mapping[str, Sequence[int]], transposed: Iterable[str]) -> dict[str, str]:
    """What the header of masks.safetensors says, for weights of these shapes; see :class:`Masks`."""
    about = {
        "format": MASK_FORMAT,
        "version": MASK_VERSION,
        "bit_order": "little",
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "transposed": sorted(transposed),
    }
    # One key: safetensors writes several in an order that changes from run to run.
    return {MASK_FORMAT: json.dumps(about, sort_keys=True)}


def export_masks(masks: Masks, path: str | Path, overwrite: bool = False) -> None:
    """Write masks to a file of their own, ``.safetensors`` or ``.npz``, which appears when it is whole."""
    path = Path(path).expanduser()
    require_suffix(path)
    with new_file(path, overwrite) as partial:
        save_masks(masks, partial)


def require_suffix(path: Path) -> None:
    """Refuse a name that says no format."""
    if path.suffix not in SUFFIXES:
        raise TrimPruneError("masks are written to a file", where=str(path), expected=" or ".join(SUFFIXES))


def open_mask_file(path: Path) -> Masks:
    """The masks in a safetensors file."""
    with open_tensors(path) as file:
        about = read_about(path, (file.metadata() or {}).get(MASK_FORMAT), MASK_FORMAT, READ_VERSIONS)
        found = set(file.keys())
    # Files from before bit_order was written have that order too.
    if about.get("bit_order", "little") != "little" or set(about.get("shapes", {})) != found:
        raise TrimPruneError(
            "the masks are not what their metadata says",
            where=str(path),
            expected="little bit order, and a shape for each mask",
        )
    shapes = {name: tuple(map(int, shape)) for name, shape in about["shapes"].items()}

    def read(name: str) -> Tensor:
        with open_tensors(path) as file:
            mask: Tensor = file.get_tensor(name)
            return mask

    return Masks(str(path), shapes, read, frozenset(about.get("transposed", [])))


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
    # Spare bits of a last byte are 0 in both: only bits that stand for weights are counted as pruned.
    a, b, weights = first[name], second[name], prod(first.shapes[name])
    return Overlap(weights, *(weights - count_bits(bits) for bits in (a, b, a | b)))


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

    where, shapes = " and ".join(source.where for source in sources), {name: first.shapes[name] for name in names}
    return Masks(where, shapes, read, first.transposed & shapes.keys())


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
    for name, mask in kept.items():
        if mask.dtype != torch.bool or mask.ndim < 2:
            raise TrimPruneError(
                "a mask is not a matrix of bools",
                where=f"{where}, {name}",
                expected="bool [R, C], True = kept",
                got=f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}",
            )
    return Masks(where, {name: tuple(mask.shape) for name, mask in kept.items()}, lambda name: pack(kept[name]))


def _save_numpy(masks: Masks, path: Path) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for name in masks:
        # numpy's own order, so that numpy.unpackbits(bits, axis=-1, count=columns) needs no other argument.
        arrays[name] = np.packbits(masks.kept(name).numpy(), axis=-1)
        arrays[name + SHAPE] = np.array(masks.shapes[name], dtype=np.int64)
        if name in masks.transposed:
            arrays[name + TRANSPOSED] = np.array(True)
    np.savez(path, **arrays)
