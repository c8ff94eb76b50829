"""Write a pruned model and its masks as a model folder, and check what was written."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import TrimPruneError
from ..permutation import Move
from ..results import LinearResult
from .discover import Linear
from .load import INDEX_FILE, SINGLE_FILE, LoadedModel
from .masks import unpack
from .stored import Convert, Stored, as_files, as_parameters, conversion
from .wrappers import plain_state

MASK_FILE = "masks.safetensors"
MASK_FORMAT = "trim-prune-masks"
MASK_VERSION = "2"
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
    "*processor_config.json",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True)
class Written:
    """What was written, by the names of the files. ``kept_zeros``: how many kept weights of each tensor are zero."""

    tensors: Stored
    kept_zeros: Mapping[str, int]


def write_model(
    loaded: LoadedModel,
    linears: Sequence[Linear],
    masks: Mapping[str, Tensor],
    moves: Sequence[Move],
    folder: Path,
    warn: Callable[[str], None],
) -> Written:
    """Write weights, configuration and tokenizer. ``masks``: by parameter names, see :class:`PruneResult`.

    From a folder: shard by shard, every tensor with its stored type; what was not pruned is copied from the
    source, so that nothing is lost when the run computed in another type, and moved as the run moved it; beside the
    model, one shard at a time is held in memory. Otherwise from memory.
    """
    model, source = loaded.model, loaded.source.folder
    state = plain_state(model)
    if source is None:
        _save_companions(loaded, folder)
    else:
        _copy_companions(source, folder)
        prefix, shards = getattr(model, "base_model_prefix", ""), _shards(source)
        known = set().union(*shards.values())
        moved = _stored_names(known, prefix, [move.parameter for move in moves])
        tensors = _as_in(known, prefix, linears, state, masks, conversion(model))
        if tensors is not None and moved is not None:
            renamed = [move._replace(parameter=moved[move.parameter]) for move in moves]
            kept_zeros = _rewrite_shards(source, shards, tensors, renamed, folder)
            _write_index(folder)
            return Written(tensors, kept_zeros)
        warn("transformers renames weights of this model while loading; it is saved under the new names")
    written = _write_state(model, linears, state, masks, folder)
    _write_index(folder)
    return written


def write_masks(tensors: Stored, folder: Path) -> None:
    """Write masks.safetensors: per pruned tensor uint8 [..., ceil(C/8)], bit 1 = kept, little bit order.

    A mask has the name and, unpacked, the shape of the tensor that it lies over; the metadata name those tensors whose
    matrices are [inputs, outputs].
    """
    about = {
        "format": MASK_FORMAT,
        "version": MASK_VERSION,
        "shapes": {name: list(weight.shape) for name, weight in tensors.weights.items()},
        "transposed": sorted(tensors.transposed),
    }
    # One key: safetensors writes several in an order that changes from run to run.
    metadata = {MASK_FORMAT: json.dumps(about, sort_keys=True)}
    save_file({name: mask.contiguous() for name, mask in tensors.masks.items()}, folder / MASK_FILE, metadata)


def verify(folder: Path, results: Sequence[LinearResult], kept_zeros: Mapping[str, int]) -> None:
    """Reopen what was written and count.

    The masks must prune exactly the ``prune_count`` of all linears together, what they prune must be zero, and no other
    weight may be zero but the ``kept_zeros``: kept weights whose value was zero to begin with.
    """
    total = 0
    with safe_open(folder / MASK_FILE, "pt") as masks:
        for shard, names in _shards(folder).items():
            with safe_open(folder / shard, "pt") as file:
                for name in sorted(names & kept_zeros.keys()):
                    weight = file.get_tensor(name)
                    pruned = ~unpack(masks.get_tensor(name), tuple(weight.shape))
                    total += _checked_count(f"{shard}, {name}", weight, pruned, kept_zeros[name])
    wanted = sum(result.prune_count for result in results)
    if total != wanted:
        raise _not_what_was_computed(str(folder), f"{wanted} pruned weights", f"{total} pruned weights")


def _checked_count(where: str, weight: Tensor, pruned: Tensor, kept_zeros: int) -> int:
    """How many weights a mask prunes; an error unless it agrees with the tensor."""
    masked, zeros, stray = int(pruned.sum()), _zeros(weight), int(torch.count_nonzero(weight[pruned]))
    if (zeros, stray) != (masked + kept_zeros, 0):
        raise _not_what_was_computed(
            where,
            f"{masked} pruned weights, all zero, and {kept_zeros} zeros among the kept ones",
            f"{stray} pruned weights that are not zero, and {zeros} zeros in all",
        )
    return masked


def _not_what_was_computed(where: str, expected: str, got: str) -> TrimPruneError:
    return TrimPruneError(
        "the written model is not what was computed",
        where=where,
        expected=expected,
        got=got,
        fix="check the disk; the output folder was not created",
    )


def _as_in(
    known: Set[str],
    prefix: str,
    linears: Sequence[Linear],
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    convert: Convert,
) -> Stored | None:
    """The pruned tensors in the form in which a folder with these names has them; None if it is of another form."""
    names = _stored_names(known, prefix, masks)
    if names is not None:
        return as_parameters(linears, state, masks).renamed(names)
    tensors = as_files(linears, state, masks, convert)
    names = _stored_names(known, prefix, tensors.weights)
    return None if names is None else tensors.renamed(names)


def _rewrite_shards(
    source: Path, shards: Mapping[str, Set[str]], pruned: Stored, moves: Sequence[Move], folder: Path
) -> dict[str, int]:
    kept_zeros = {}
    for shard in shards:
        with safe_open(source / shard, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        for move in moves:
            if move.parameter in tensors:
                tensors[move.parameter] = move.of(tensors[move.parameter])
        for name in tensors.keys() & pruned.masks.keys():
            kept = unpack(pruned.masks[name], tuple(tensors[name].shape))
            tensors[name] = _merge(tensors[name], pruned.weights[name].cpu(), kept)
            kept_zeros[name] = _zeros(tensors[name][kept])
        save_file(tensors, folder / shard, metadata)
    if not (source / SINGLE_FILE).is_file():
        shutil.copyfile(source / INDEX_FILE, folder / INDEX_FILE)
    return kept_zeros


def _merge(stored: Tensor, computed: Tensor, kept: Tensor) -> Tensor:
    """The computed weight in the stored type; what the run left alone keeps its stored value to the bit."""
    unchanged = stored.to(computed.dtype) == computed
    return torch.where(unchanged, stored, computed.to(stored.dtype)).masked_fill_(~kept, 0)


def _write_state(
    model: nn.Module,
    linears: Sequence[Linear],
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    folder: Path,
) -> Written:
    from huggingface_hub import save_torch_state_dict

    convert = conversion(model)
    files = convert(state)
    same = files.keys() >= masks.keys()
    pruned = as_parameters(linears, state, masks) if same else as_files(linears, state, masks, convert)
    # transformers 4 keeps a list of the tied names, transformers 5 a table.
    tied = list(getattr(model, "_tied_weights_keys", None) or [])
    save_torch_state_dict(
        {name: _alone(tensor) for name, tensor in files.items()}, folder, shared_tensors_to_discard=tied
    )
    kept_zeros = {
        name: _zeros(weight.cpu()[unpack(pruned.masks[name], tuple(weight.shape))])
        for name, weight in pruned.weights.items()
    }
    return Written(pruned, kept_zeros)


def _alone(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, or as it is if all of its memory is its own: tied ones have to stay tied."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def _shards(folder: Path) -> dict[str, set[str]]:
    """The weight files of a model folder, each with the names of its tensors."""
    if (folder / SINGLE_FILE).is_file():
        with safe_open(folder / SINGLE_FILE, "pt") as file:
            return {SINGLE_FILE: set(file.keys())}
    weight_map: dict[str, str] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
    return {shard: {n for n, s in weight_map.items() if s == shard} for shard in sorted(set(weight_map.values()))}


def _stored_names(known: Set[str], prefix: str, parameters: Iterable[str]) -> dict[str, str] | None:
    """Which of the known names each of some parameters has; None if one has none.

    Checkpoints of the bare model lack the prefix that the causal model gives its names.
    """
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


def _copy_companions(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file():
                target = folder / file.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
