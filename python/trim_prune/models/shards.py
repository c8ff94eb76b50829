"""The weight files of a model folder, tensor by tensor: which file holds which, and at what place in it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import TrimPruneError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE = 16 << 20
"""Bytes that are copied at a time."""


@dataclass(frozen=True)
class Place:
    """Bytes ``begin`` to ``end`` of a file, which are a tensor of that shape; ``stored``: its type in the file."""

    file: str
    begin: int
    end: int
    shape: tuple[int, ...]
    stored: str

    @property
    def dtype(self) -> torch.dtype | None:
        """None if it is not a float."""
        return FLOATS.get(self.stored)


class Shards:
    """Some safetensors files of one folder. Nothing is read but their headers until a tensor is asked for."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Read the headers.

        Raises:
            SafetensorError: a file is no safetensors file, or was cut short.
            OSError: a file cannot be read.
        """
        self.folder, self.files = folder, sorted(files)
        self.places = {name: place for file in self.files for name, place in _places(folder / file)}

    @property
    def only_dtype(self) -> torch.dtype | None:
        """The type of all floating-point tensors; None if they differ."""
        types = {place.dtype for place in self.places.values()} - {None}
        return types.pop() if len(types) == 1 else None

    def find(
        self, parameters: Iterable[str], prefix: str, called: Mapping[str, str] | None = None
    ) -> dict[str, str] | None:
        """The stored name of each of some parameters; None if one is missing: it was converted while it was loaded.

        Checkpoints of the bare model lack the prefix that the causal model gives its names. ``called``: what the stored
        tensors are called in the model, prefix apart; by default as they are stored.
        """
        stored = None if called is None else {name: key for key, name in called.items()}
        known = self.places if stored is None else stored
        names = {}
        for name in parameters:
            candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
            found = next((candidate for candidate in candidates if candidate in known), None)
            if found is None:
                return None
            names[name] = found if stored is None else stored[found]
        return names

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors by their names, in memory of their own, file by file."""
        for file, wanted in self._by_file(names).items():
            with _reading(self.folder / file), safe_open(self.folder / file, "pt") as opened:
                for name in wanted:
                    yield name, opened.get_tensor(name).clone()

    def get(self, name: str) -> Tensor:
        """One tensor."""
        return next(iter(self.read([name])))[1]

    def write(self, name: str, tensor: Tensor) -> None:
        """Put another tensor of the same type and shape in the place of one."""
        place = self.places[name]
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        if len(content) != place.end - place.begin:
            raise ValueError(f"{name} has {len(content)} bytes in place of {place.end - place.begin}")
        with (self.folder / place.file).open("r+b") as file:
            file.seek(place.begin)
            file.write(content)

    def sync(self, names: Iterable[str]) -> None:
        """Wait until the files of these tensors are on the disk."""
        for file in self._by_file(names):
            with (self.folder / file).open("rb") as opened:
                os.fsync(opened.fileno())

    def outline(self, folder: Path, without: Collection[str]) -> Shards:
        """Files of the same names and sizes in another folder, which hold all tensors but some, whose place is kept.

        The space for all of them is taken at once: a disk that is too small is found before there is anything to write.
        """
        for file in self.files:
            source, size = self.folder / file, (self.folder / file).stat().st_size
            allocate(folder / file, size)
            left_out = sorted((p.begin, p.end) for n, p in self.places.items() if p.file == file and n in without)
            with source.open("rb") as reading, (folder / file).open("r+b") as writing:
                at = 0
                for begin, end in (*left_out, (size, size)):
                    copy_bytes(reading.fileno(), writing.fileno(), at, begin, at)
                    at = end
        return Shards(folder, self.files)

    def _by_file(self, names: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self.places[name].file, []).append(name)
        return found


def weight_files(folder: Path) -> list[str]:
    """The names of the weight files of a model folder."""
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    weight_map: dict[str, str] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
    return sorted(set(weight_map.values()))


def shards_of(folder: Path) -> Shards | None:
    """The weight files of a model folder; None if some of them are not there, as where only an index was fetched."""
    known = any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    files = weight_files(folder) if known else []
    return Shards(folder, files) if files and all((folder / file).is_file() for file in files) else None


def tensor_names(folder: Path) -> dict[str, set[str]]:
    """The weight files of a model folder, each with the names of its tensors."""
    found: dict[str, set[str]] = {file: set() for file in weight_files(folder)}
    for name, place in Shards(folder, found).places.items():
        found[place.file].add(name)
    return found


def make_file(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> None:
    """A safetensors file of uint8 tensors: zero, or what was in their place."""
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    lay_out(path, {name: Place(path.name, 0, sizes[name], shape, "U8") for name, shape in shapes.items()}, metadata)


def lay_out(path: Path, tensors: Mapping[str, Place], metadata: Mapping[str, str]) -> None:
    """A safetensors file of tensors like those at some places: zero, or what was in their place."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, place in tensors.items():
        size = place.end - place.begin
        header[name] = {"dtype": place.stored, "shape": list(place.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    allocate(path, 8 + len(text) + at)
    with path.open("r+b") as file:
        file.write(len(text).to_bytes(8, "little") + text)


def allocate(path: Path, size: int) -> None:
    """A file of that size, for which the disk has space; what it held within the size stays.

    Raises:
        OSError: the disk has not.
    """
    with path.open("ab") as file:
        os.truncate(file.fileno(), size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrimPruneError(
            "the weights cannot be read",
            where=str(path),
            got=f"{type(error).__name__}: {error}",
            fix="check that the file is complete, and was not changed since the run began",
        ) from error


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    with safe_open(path, "pt"):
        pass  # the library checks that header and size of the file fit together
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in about["data_offsets"])
            yield name, Place(path.name, begin, end, tuple(about["shape"]), about["dtype"])


def copy_bytes(source: int, target: int, begin: int, end: int, to: int) -> None:
    """Bytes ``begin`` to ``end`` of an open file into another one, where they begin at ``to``."""
    for at in range(begin, end, PIECE):
        content = os.pread(source, min(PIECE, end - at), at)
        if os.pwrite(target, content, to + at - begin) != min(PIECE, end - at):
            raise OSError("a file was cut short while it was copied")
