"""What a model folder says of its weights without any of them being read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import TrimPruneError
from .load import (
    PACKED_FILE,
    STRUCTURE_FILE,
    auto_class,
    compute_dtype,
    download,
    empty_model,
    is_hub_id,
    mixes_types,
    read_config,
)
from .on_disk import stored_names
from .shards import INDEX_FILE, SINGLE_FILE, Shards, shards_of, weight_files


def header_folder(model: str | Path) -> Path:
    """The folder of a model; of a hub id one with its configuration and index alone.

    Raises:
        TrimPruneError: there is no such folder, or no config.json in it.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and path.suffix != ".gguf" and not path.exists() and is_hub_id(str(model)):
        path = download(str(model), ["*.json", "*.py"])
    if not (path / "config.json").is_file():
        raise TrimPruneError(
            f"no model folder at {str(model)!r}",
            expected="a folder with config.json, or a hub id such as 'org/name'",
        )
    return path.resolve()


def read_headers(folder: Path) -> dict[str, str]:
    """The type of every tensor in the safetensors files of a folder, by name; of those that are there."""
    known = any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    files = [file for file in (weight_files(folder) if known else []) if (folder / file).is_file()]
    places = Shards(folder, files).places
    return {
        name: place.stored if place.dtype is None else str(place.dtype).removeprefix("torch.")
        for name, place in places.items()
    }


def without_weights(folder: Path, name: str, *, trust_remote_code: bool) -> nn.Module:
    """The model of a folder, all of it on the meta device. ``name``: for errors."""
    config = read_config(folder, name, trust_remote_code)
    try:
        with torch.device("meta"):
            model: nn.Module = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise TrimPruneError(
            "transformers cannot make this model", where=name, got=f"{type(error).__name__}: {error}"
        ) from error
    if (folder / STRUCTURE_FILE).is_file():
        # Here: it needs modules that need this one.
        from ..structured.ragged import give_sizes

        give_sizes(model, folder)
    return model


def outline_model(
    folder: Path, name: str, *, dtype: str, device: torch.device, trust_remote_code: bool
) -> tuple[Any, bool]:
    """The model of a folder as it would be computed, without its weights, and whether a prune leaves them in the files.

    ``name``: for errors. Files that are not there (of a hub id) count as if they held the parameters as they are, in
    the type that the configuration names.

    Raises:
        TrimPruneError: no model of this folder can be made without reading weights.
    """
    for file, what in ((STRUCTURE_FILE, "sizes of their own"), (PACKED_FILE, "packed weights")):
        if (folder / file).is_file():
            raise TrimPruneError(
                f"the blocks of this model have {what}, of which headers do not tell enough",
                where=name,
                got=file,
                fix="give the model that it was made from",
            )
    config, shards = read_config(folder, name, trust_remote_code), shards_of(folder)
    first = compute_dtype(dtype) or config.dtype or (shards.only_dtype if shards else None) or torch.float32
    try:
        model = empty_model(config, first, dtype == "auto" and device.type == "cpu", trust_remote_code)
    except Exception as error:
        raise TrimPruneError(
            "transformers cannot make this model", where=name, got=f"{type(error).__name__}: {error}"
        ) from error
    return model.eval(), not mixes_types(model) and (shards is None or stored_names(model, shards) is not None)
