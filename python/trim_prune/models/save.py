"""Write a pruned model: into a folder beside the final one, renamed when everything is there and checked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import TrimPruneError
from ..results import LinearResult
from .load import INDEX_FILE, SINGLE_FILE, LoadedModel, Source

MASK_FILE = "masks.safetensors"
MASK_FORMAT = "trim-prune-masks"
MASK_VERSION = "1"
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or that cannot be made."""
    if out.exists() and not out.is_dir():
        raise TrimPruneError("the output is not a folder", where=str(out))
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise TrimPruneError(
            "the output folder exists and is not empty", where=str(out), fix="choose another --out, or --overwrite"
        )
    existing = next(parent for parent in (out, *out.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise TrimPruneError("the output folder cannot be written", where=str(existing))


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the body ends without error, and vanishes if it fails.

    What killed runs left behind is removed first. A reader sees the old folder, or the whole new one.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        _replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_model(
    loaded: LoadedModel, results: Sequence[LinearResult], masks: Mapping[str, Tensor], folder: Path
) -> dict[str, int]:
    """Write weights, configuration and tokenizer; returns the number of zeros that each pruned weight must have.

    From a folder: shard by shard, every tensor with its stored type; a tensor that was not pruned is copied from
    the source, so that nothing is lost when the run computed in another type. Otherwise from memory.
    """
    state = loaded.model.state_dict()
    pruned = {f"{result.name}.weight": result for result in results}
    stored = None if loaded.source.folder is None else _stored_names(loaded.source.folder, pruned)
    if loaded.source.folder is not None and stored is not None:
        _copy_companions(loaded.source.folder, folder)
        return _rewrite_shards(loaded.source.folder, stored, state, pruned, folder)
    loaded.model.config.save_pretrained(folder)
    if getattr(loaded.model, "generation_config", None) is not None:
        loaded.model.generation_config.save_pretrained(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    return _write_state(loaded.model, state, pruned, folder)
