"""Write a pruned model and its masks as a model folder, and check what was written."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trim_kernels import unpack_bits

from ..errors import TrimPruneError
from ..permutation import Move
from ..results import LinearResult
from .load import INDEX_FILE, SINGLE_FILE, STRUCTURE_FILE, LoadedModel

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
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    STRUCTURE_FILE,
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


def write_model(
    loaded: LoadedModel,
    masks: Mapping[str, Tensor],
    moves: Sequence[Move],
    folder: Path,
    warn: Callable[[str], None],
) -> dict[str, int]:
    """Write weights, configuration and tokenizer; returns the kept weights that are zero, by weight name.

    From a folder: shard by shard, every tensor with its stored type; what was not pruned is copied from the
    source, so that nothing is lost when the run computed in another type, and moved as the run moved it; beside the
    model, one shard at a time is held in memory. Otherwise from memory.
    """
    model, source = loaded.model, loaded.source.folder
    state = model.state_dict()
    stored = None
    if source is not None:
        changed = [*masks, *(move.parameter for move in moves)]
        stored = _stored_names(source, getattr(model, "base_model_prefix", ""), changed)
        copy_companions(source, folder)
    else:
        _save_companions(loaded, folder)
    if source is not None and stored is not None:
        kept_zeros = _rewrite_shards(source, stored, state, masks, moves, folder)
    else:
        if source is not None:
            warn("transformers renames weights of this model while loading; it is saved under the new names")
        kept_zeros = _write_state(model, state, masks, folder)
    _write_index(folder)
    return kept_zeros


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


def verify(folder: Path, results: Sequence[LinearResult], kept_zeros: Mapping[str, int], prefix: str) -> None:
    """Reopen what was written and count.

    Each mask must prune exactly ``prune_count`` weights, all of them zero, and no other weight may be zero but the
    ``kept_zeros``: kept weights whose value was zero to begin with.
    """
    counts = {f"{result.name}.weight": result.prune_count for result in results}
    stored = _stored_names(folder, prefix, counts) or {}
    with safe_open(folder / MASK_FILE, "pt") as masks:
        for shard, names in _shards(folder).items():
            with safe_open(folder / shard, "pt") as file:
                for name in (name for name in counts if stored[name] in names):
                    weight = file.get_tensor(stored[name])
                    pruned = ~unpack_bits(masks.get_tensor(name), weight.shape[1])
                    _check_counts(f"{shard}, {stored[name]}", weight, pruned, counts[name], kept_zeros[name])


def _check_counts(where: str, weight: Tensor, pruned: Tensor, prune_count: int, kept_zeros: int) -> None:
    masked, zeros, stray = int(pruned.sum()), _zeros(weight), int(torch.count_nonzero(weight[pruned]))
    if (masked, zeros, stray) != (prune_count, prune_count + kept_zeros, 0):
        raise TrimPruneError(
            "the written model is not what was computed",
            where=where,
            expected=f"{prune_count} pruned weights, all zero, and {kept_zeros} zeros among the kept ones",
            got=f"{masked} pruned weights, {stray} of them not zero, and {zeros} zeros in all",
            fix="check the disk; the output folder was not created",
        )


def _rewrite_shards(
    source: Path,
    stored: Mapping[str, str],
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    moves: Sequence[Move],
    folder: Path,
) -> dict[str, int]:
    pruned = {stored[name]: name for name in masks}
    kept_zeros = {}
    for shard in _shards(source):
        with safe_open(source / shard, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        for move in moves:
            key = stored[move.parameter]
            if key in tensors:
                tensors[key] = move.of(tensors[key])
        for key in tensors.keys() & pruned.keys():
            name = pruned[key]
            kept = unpack_bits(masks[name], state[name].shape[1])
            tensors[key] = _merge(tensors[key], state[name].cpu(), kept)
            kept_zeros[name] = _zeros(tensors[key][kept])
        save_file(tensors, folder / shard, metadata)
    if not (source / SINGLE_FILE).is_file():
        shutil.copyfile(source / INDEX_FILE, folder / INDEX_FILE)
    return kept_zeros


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
    return {name: _zeros(state[name].cpu()[unpack_bits(masks[name], state[name].shape[1])]) for name in masks}


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def _shards(folder: Path) -> dict[str, set[str]]:
    """The weight files of a model folder, each with the names of its tensors."""
    if (folder / SINGLE_FILE).is_file():
        with safe_open(folder / SINGLE_FILE, "pt") as file:
            return {SINGLE_FILE: set(file.keys())}
    weight_map: dict[str, str] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
    return {shard: {n for n, s in weight_map.items() if s == shard} for shard in sorted(set(weight_map.values()))}


def _stored_names(folder: Path, prefix: str, parameters: Iterable[str]) -> dict[str, str] | None:
    """The name of each of some parameters in the source folder; None if the model was converted while loading.

    Checkpoints of the bare model lack the prefix that the causal model gives its names.
    """
    known = set().union(*_shards(folder).values())
    names = {}
    for name in parameters:
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
    config = copy.deepcopy(loaded.model.config)
    # What save_pretrained of the model would add: loaders choose the class by the first and the type by the second.
    config.architectures, config.dtype = [type(loaded.model).__name__], loaded.model.dtype
    config.save_pretrained(folder)
    if getattr(loaded.model, "generation_config", None) is not None:
        loaded.model.generation_config.save_pretrained(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what stands beside the weights in a model folder: configuration, tokenizer, code, licences."""
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file():
                target = folder / file.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
