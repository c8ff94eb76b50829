"""The linears of a model folder, by configuration and file headers: no weight is read to find them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TrimPruneError
from ..models.discover import find_blocks
from ..models.load import PACKED_FILE, resolve
from ..models.shards import Shards, weight_files


def dense_folder(source: Path) -> Path:
    """The folder, if its weights are in ordinary safetensors files."""
    folder = resolve(source).folder if source.exists() else None
    if folder is None:
        raise TrimPruneError("no model folder with safetensors", where=str(source))
    if (folder / PACKED_FILE).is_file():
        raise TrimPruneError("the model folder is packed", where=str(source), fix="trim-prune unpack it first")
    return folder


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """[R, C] of the weights of all linears in the blocks, by their names in the model; no weight is read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    dense_folder(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise TrimPruneError(
            "transformers cannot tell the linears of this model",
            where=str(folder),
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            fix="give masks in a file, which name them",
        ) from error
    weights = [(linear.weight_name, linear.module.weight) for block in find_blocks(model) for linear in block.linears]
    return {name: (weight.shape[0], weight.shape[1]) for name, weight in weights}


def names_in(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The names that the folder's files give to some weights of the model."""
    wanted = list(names)
    # The first part of a weight's name is the prefix that checkpoints of the bare model lack.
    prefix = wanted[0].partition(".")[0] if wanted else ""
    shards = Shards(folder, weight_files(folder))
    stored = shards.find(wanted, prefix)
    if stored is None:
        known = shards.places
        missing = [name for name in wanted if name not in known and name.partition(".")[2] not in known]
        raise TrimPruneError(
            "the masks name weights that the model folder has not",
            where=str(folder),
            got=", ".join(missing[:4]) + (", ..." if len(missing) > 4 else ""),
            fix="give the folder of the model that the masks are of",
        )
    return stored


def read_stored(folder: Path, name: str) -> Tensor:
    """One tensor of a model folder, by the name that it has in its file."""
    return Shards(folder, weight_files(folder)).get(name)
