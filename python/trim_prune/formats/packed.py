"""Packed checkpoints: of every pruned tensor the kept values and where they were. See docs/formats.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from trim_kernels import pack_bits, unpack_values

from ..errors import TrimPruneError
from ..models.load import PACKED_FILE
from ..options import Strict
from ..pattern import Keep, Pattern
from .files import open_tensors, read_about
from .indices import index_bits, unpack_indices
from .masks import Masks, packed_shape

PACKED_FORMAT = "trim-prune-packed"
PACKED_VERSIONS = ("1", "2")
"""The second knows tensors that are not matrices [outputs, inputs], and is written only for them."""
VALUES, MASK, INDICES = ":values", ":mask", ":indices"
"""What follows a tensor's name in its shard."""


FileName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.safetensors$")]
"""In the folder itself, and nowhere else."""


class PackedTensor(Strict):
    """How a tensor is packed.

    ``weight``: its name in the model, as in masks.safetensors. ``layout``: "mask", packed bits as in
    masks.safetensors, or a pattern such as "keep 1 of 8", places of the kept columns in their groups.
    """

    weight: str
    shape: Annotated[tuple[int, ...], Field(min_length=2)]
    layout: str

    @property
    def pattern(self) -> Keep | None:
        """The pattern; None for a mask."""
        if self.layout == "mask":
            return None
        pattern = Pattern.parse(self.layout)
        if pattern.keep is None:
            raise ValueError(f"layout {self.layout!r} does not say how many stay")
        return Keep(pattern.keep, pattern.of)


class Contents(Strict):
    """The content of packed.json.

    ``shards``: the name of each file and of the dense one that it stands for. ``tensors``: the packed ones, by their
    names in the shards; all others are there as they are. ``masks``: whether the dense folder has masks.safetensors.
    ``transposed``: those of the packed tensors whose matrices are [inputs, outputs].
    """

    format: Literal["trim-prune-packed"] = "trim-prune-packed"
    version: Literal[1, 2]
    masks: bool = Field(strict=True)
    shards: dict[FileName, FileName]
    tensors: dict[str, PackedTensor]
    transposed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Contents:
        if unknown := sorted(set(self.transposed) - self.tensors.keys()):
            raise ValueError(f"transposed names {unknown[0]}, which is not among the tensors")
        return self

    def json_text(self) -> str:
        """As the file has it; what the first version does not know is left out where it says nothing."""
        left_out = None if self.version > 1 else {"transposed"}
        return self.model_dump_json(indent=1, exclude=left_out) + "\n"


@dataclass(frozen=True)
class PackedFolder:
    """A packed checkpoint; tensors are read, and unpacked, one at a time."""

    folder: Path
    contents: Contents

    def tensors(self, shard: str, device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
        """Every dense tensor of a shard, unpacked on the device."""
        with open_tensors(self.folder / shard) as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                name = key.removesuffix(VALUES)
                if name in self.contents.tensors:
                    yield name, self._dense(file, name, device)
                elif key.rpartition(":")[0] not in self.contents.tensors:
                    yield key, file.get_tensor(key).to(device)

    def masks(self) -> Masks:
        """The masks of all packed tensors, by their names in the model."""
        names = {packed.weight: name for name, packed in self.contents.tensors.items()}
        shapes = {weight: self.contents.tensors[name].shape for weight, name in names.items()}
        transposed = frozenset(self.contents.tensors[name].weight for name in self.contents.transposed)

        def read(weight: str) -> Tensor:
            name = names[weight]
            for shard in self.contents.shards:
                with open_tensors(self.folder / shard) as file:
                    if name + VALUES in file.keys():  # noqa: SIM118 - not a dict
                        return self._bits(file, name, "cpu")
            raise _damaged(self.folder, f"{name} is in no shard")

        return Masks(str(self.folder), shapes, read, transposed)

    def _dense(self, file: Any, name: str, device: torch.device | str) -> Tensor:
        values, shape = file.get_tensor(name + VALUES).to(device), self.contents.tensors[name].shape
        try:
            return unpack_values(values, self._bits(file, name, device).flatten(0, -2), shape[-1]).view(shape)
        except ValueError as error:
            raise _damaged(self.folder, f"{name}: {error}") from error

    def _bits(self, file: Any, name: str, device: torch.device | str) -> Tensor:
        packed = self.contents.tensors[name]
        pattern = packed.pattern
        if pattern is None:
            mask = self._bytes(file, name + MASK, packed_shape(packed.shape))
            return mask.to(device)
        rows, columns = prod(packed.shape[:-1]), packed.shape[-1]
        width = (pattern.of_row(columns) * index_bits(pattern) + 7) // 8
        indices = self._bytes(file, name + INDICES, (rows, width)).to(device)
        return pack_bits(unpack_indices(indices, pattern, packed.shape[-1])).view(packed_shape(packed.shape))

    def _bytes(self, file: Any, key: str, shape: tuple[int, ...]) -> Tensor:
        found: Tensor = file.get_tensor(key)
        if found.dtype != torch.uint8 or tuple(found.shape) != shape:
            got = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
            raise _damaged(self.folder, f"{key}: {got} in place of uint8 {list(shape)}")
        return found


def open_packed(folder: Path) -> PackedFolder:
    """Read packed.json; an error if it is not what it should be, or a shard is missing."""
    path = folder / PACKED_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrimPruneError(f"cannot read {PACKED_FILE}: {error}", where=str(folder)) from error
    about = read_about(path, text, PACKED_FORMAT, PACKED_VERSIONS)
    try:
        contents = Contents.model_validate(about)
    except ValidationError as error:
        detail = error.errors()[0]
        raise _damaged(folder, f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
    missing = [shard for shard in contents.shards if not (folder / shard).is_file()]
    if missing:
        raise _damaged(folder, f"without {', '.join(missing)}")
    return PackedFolder(folder, contents)


def _damaged(folder: Path, got: str) -> TrimPruneError:
    return TrimPruneError(
        "the packed checkpoint is damaged", where=str(folder), got=got, fix="fetch it, or pack the model, again"
    )
