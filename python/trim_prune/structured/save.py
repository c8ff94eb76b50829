"""Write a model that has become smaller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..models.companions import copy_companions
from ..models.load import STRUCTURE_FILE, LoadedModel
from ..models.wrappers import plain_state
from .parts import BlockParts
from .ragged import write_ragged
from .recipe import Mode

CONFIG_FILE = "config.json"
SIZES = (CONFIG_FILE, STRUCTURE_FILE)


def write_smaller(
    loaded: LoadedModel, parts: Sequence[BlockParts], mode: Mode, folder: Path, max_shard_size: int | None = None
) -> None:
    """Write weights, configuration, tokenizer and what else stood beside the model; structure.json in ragged mode.

    A model from a folder is written in the type that its configuration names, whatever it was computed in, and its
    parameters in memory are rounded to that type: they stay what was written. ``max_shard_size``: bytes of the largest
    weight file; None: transformers' own choice.
    """
    source, computed = loaded.source.folder, loaded.model.dtype
    ragged = mode == "ragged" or (mode == "masked" and is_ragged(source))
    _round(loaded.model, stored_dtype(loaded))
    sizes = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    try:
        if ragged:
            write_ragged(loaded.model, parts, folder, **sizes)
        else:
            loaded.model.save_pretrained(folder, state_dict=plain_state(loaded.model), **sizes)
    finally:
        _round(loaded.model, computed)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    if source is not None:
        _copy_companions(source, folder)


def is_ragged(folder: Path | None) -> bool:
    """Whether a model folder holds blocks that differ in size."""
    return folder is not None and (folder / STRUCTURE_FILE).is_file()


def _copy_companions(source: Path, folder: Path) -> None:
    """What stands beside the weights of the source, but for the files that say the sizes."""
    said = {name: (folder / name).read_bytes() for name in SIZES if (folder / name).is_file()}
    copy_companions(source, folder)
    for name in SIZES:
        if name in said:
            (folder / name).write_bytes(said[name])
        else:
            (folder / name).unlink(missing_ok=True)


def stored_dtype(loaded: LoadedModel) -> torch.dtype:
    """The type in which a model is written."""
    source = loaded.source.folder
    computed: torch.dtype = loaded.model.dtype
    if source is None:
        return computed
    config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    name = config.get("dtype", config.get("torch_dtype"))
    stored = getattr(torch, name, None) if isinstance(name, str) else None
    return stored if isinstance(stored, torch.dtype) and stored.is_floating_point else computed


def _round(model: nn.Module, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
