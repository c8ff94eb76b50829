"""Weight files of another layout than those of the source: none larger than was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import TrimPruneError
from .shards import INDEX_FILE, SINGLE_FILE, Shards, copy_bytes, lay_out

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_size(size: int | str | None) -> int | None:
    """Bytes of a size in words, as transformers writes it: "5GB" is five times 10^9, "5GiB" five times 2^30.

    Raises:
        TrimPruneError: no such size, or none.
    """
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(size).strip().upper())
    found = int(float(match[1]) * UNITS[match[2]]) if match is not None and match[2] in UNITS else 0
    if found < 1:
        raise TrimPruneError(
            "the largest size of a weight file is no size", expected='bytes, or words such as "5GB"', got=repr(size)
        )
    return found


def reshard(source: Shards, folder: Path, without: Collection[str], max_size: int) -> Shards:
    """Files of at most that size, header apart, in another folder, and their index, if they are more than one.

    They hold the tensors of the source in their order, those of ``without`` as places that are kept. A tensor that is
    larger has a file of its own. What such files held before in these places stays.
    """
    groups = _groups(source, max_size)
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    files = dict(zip(names if len(groups) > 1 else [SINGLE_FILE], groups, strict=True))
    for file, tensors in files.items():
        lay_out(folder / file, {name: source.places[name] for name in tensors}, {"format": "pt"})
    made = Shards(folder, files)
    for file, tensors in files.items():
        with (folder / file).open("r+b") as writing:
            for name in (name for name in tensors if name not in without):
                place = source.places[name]
                with (source.folder / place.file).open("rb") as reading:
                    copy_bytes(reading.fileno(), writing.fileno(), place.begin, place.end, made.places[name].begin)
    if len(groups) > 1:
        write_map(folder, {name: file for file, tensors in files.items() for name in tensors}, source)
    return made


def write_map(folder: Path, weight_map: Mapping[str, str], source: Shards) -> None:
    """The index of some files: which of them holds which tensor."""
    size = sum(place.end - place.begin for place in source.places.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(weight_map)}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _groups(source: Shards, max_size: int) -> Sequence[list[str]]:
    groups: list[list[str]] = []
    left = 0
    for name in sorted(source.places, key=lambda name: (source.places[name].file, source.places[name].begin)):
        size = source.places[name].end - source.places[name].begin
        if not groups or size > left:
            groups.append([])
            left = max_size
        groups[-1].append(name)
        left -= size
    return groups
