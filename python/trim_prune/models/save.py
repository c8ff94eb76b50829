"""Write a pruned model: into a folder beside the final one, renamed when everything is there and checked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trim_kernels import unpack_bits

from ..errors import TrimPruneError
from ..results import LinearResult
from .load import INDEX_FILE, SINGLE_FILE, LoadedModel

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
            "the output folder exists and is not empty",
            where=str(out),
            fix="choose another --out, or --overwrite",
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
    loaded: LoadedModel, masks: Mapping[str, Tensor], folder: Path, warn: Callable[[str], None]
) -> dict[str, int]:
    """Write weights, configuration and tokenizer; returns the zeros that each pruned weight has, by weight name.

    From a folder: shard by shard, every tensor with its stored type; what was not pruned is copied from the
    source, so that nothing is lost when the run computed in another type. Otherwise from memory.
    """
    model, source = loaded.model, loaded.source.folder
    state = model.state_dict()
    stored = None
    if source is not None:
        stored = _stored_names(source, getattr(model, "base_model_prefix", ""), masks)
        _copy_companions(source, folder)
    else:
        _save_companions(loaded, folder)
    if source is not None and stored is not None:
        zeros = _rewrite_shards(source, stored, state, masks, folder)
    else:
        if source is not None:
            warn("transformers renames weights of this model while loading; it is saved under the new names")
        zeros = _write_state(model, state, masks, folder)
    _write_index(folder)
    return zeros


def write_masks(masks: Mapping[str, Tensor], results: Sequence[LinearResult], folder: Path) -> None:
    """Write masks.safetensors: per weight uint8 [R, ceil(C/8)], bit 1 = kept, little bit order."""
    about = {
        "format": MASK_FORMAT,
        "version": MASK_VERSION,
        "shapes": {f"{result.name}.weight": list(result.shape) for result in results},
    }
    # One key: safetensors writes several in an order that changes from run to run.
    metadata = {MASK_FORMAT: json.dumps(about, sort_keys=True)}
    save_file({name: mask.contiguous() for name, mask in masks.items()}, folder / MASK_FILE, metadata)


def verify(folder: Path, zeros: Mapping[str, int], masks: Mapping[str, Tensor], prefix: str) -> None:
    """Reopen what was written: every pruned weight has exactly the expected zeros, and all where its mask says."""
    stored = _stored_names(folder, prefix, masks) or {}
    for shard, names in _shards(folder).items():
        with safe_open(folder / shard, "pt") as file:
            for name in (name for name in masks if stored[name] in names):
                weight = file.get_tensor(stored[name])
                found = _zeros(weight)
                stray = int(torch.count_nonzero(weight[~unpack_bits(masks[name], weight.shape[1])]))
                if found != zeros[name] or stray:
                    raise TrimPruneError(
                        "the written model is not what was computed",
                        where=f"{shard}, {stored[name]}",
                        expected=f"{zeros[name]} zeros, all pruned positions among them",
                        got=f"{found} zeros, {stray} pruned positions that are not zero",
                        fix="check the disk; the output folder was not created",
                    )


def _rewrite_shards(
    source: Path,
    stored: Mapping[str, str],
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, int]:
    pruned = {stored[name]: name for name in masks}
    zeros = {}
    for shard in _shards(source):
        with safe_open(source / shard, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        for key in tensors.keys() & pruned.keys():
            name = pruned[key]
            tensors[key] = _merge(tensors[key], state[name].cpu(), unpack_bits(masks[name], state[name].shape[1]))
            zeros[name] = _zeros(tensors[key])
        save_file(tensors, folder / shard, metadata)
    return zeros


def _merge(stored: Tensor, computed: Tensor, kept: Tensor) -> Tensor:
    """The computed weight in the stored type; what the run left alone keeps its stored value to the bit."""
    unchanged = stored.to(computed.dtype) == computed
    return torch.where(unchanged, stored, computed.to(stored.dtype)).masked_fill_(~kept, 0)


def _write_state(
    model: nn.Module, state: dict[str, Tensor], masks: Mapping[str, Tensor], folder: Path
) -> dict[str, int]:
    from huggingface_hub import save_torch_state_dict

    # transformers 4 keeps a list of the tied names, transformers 5 a table.
    tied = list(getattr(model, "_tied_weights_keys", None) or [])
    save_torch_state_dict(state, folder, shared_tensors_to_discard=tied)
    return {name: _zeros(state[name]) for name in masks}


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def _shards(folder: Path) -> dict[str, set[str]]:
    """The weight files of a model folder, each with the names of its tensors."""
    if (folder / SINGLE_FILE).is_file():
        with safe_open(folder / SINGLE_FILE, "pt") as file:
            return {SINGLE_FILE: set(file.keys())}
    weight_map: dict[str, str] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
    return {shard: {n for n, s in weight_map.items() if s == shard} for shard in sorted(set(weight_map.values()))}


def _stored_names(folder: Path, prefix: str, pruned: Iterable[str]) -> dict[str, str] | None:
    """The name of each pruned weight in the source folder; None if the model was converted while loading.

    Checkpoints of the bare model lack the prefix that the causal model gives its names.
    """
    known = set().union(*_shards(folder).values())
    names = {}
    for name in pruned:
        candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        found = next((candidate for candidate in candidates if candidate in known), None)
        if found is None:
            return None
        names[name] = found
    return names


def _write_index(folder: Path) -> None:
    """An index also for a single file: loaders that read every .safetensors file would take the masks for weights."""
    if (folder / INDEX_FILE).exists():
        return
    with safe_open(folder / SINGLE_FILE, "pt") as file:
        names = sorted(file.keys())
    size = (folder / SINGLE_FILE).stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, SINGLE_FILE)}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_companions(loaded: LoadedModel, folder: Path) -> None:
    loaded.model.config.save_pretrained(folder)
    if getattr(loaded.model, "generation_config", None) is not None:
        loaded.model.generation_config.save_pretrained(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)


def _copy_companions(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(out: Path) -> None:
    for path in out.parent.glob(f".{out.name}.*-*"):
        kind, _, pid = path.name.removeprefix(f".{out.name}.").partition("-")
        if not pid.isdigit() or _runs(int(pid)):
            continue
        if kind == "old" and not out.exists():
            os.rename(path, out)
        elif kind in ("old", "partial"):
            shutil.rmtree(path)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
