"""The output folder of a run while blocks are put into it one by one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from trim_kernels import unpack_bits

from ..digest import checksum
from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE
from ..permutation import Move
from ..results import LinearResult
from .companions import copy_companions, save_companions
from .discover import Block
from .load import LoadedModel
from .masks import make_masks
from .shards import INDEX_FILE, SINGLE_FILE, Shards, weight_files


class Output:
    """A model folder whose weight files and masks have their final size from the start.

    From a folder the files are those of the source, byte for byte but for what is pruned: every tensor in its place and
    with its stored type, so that nothing is lost when the run computes in another one. A model from memory, or one that
    transformers converts while it loads it, is saved first as it is.
    """

    def __init__(self, folder: Path, loaded: LoadedModel, blocks: Sequence[Block]) -> None:
        self.folder, self._loaded, self._blocks = folder, loaded, blocks
        self._source, self._keys = _stored(loaded, blocks)
        self._shards: Shards | None = None
        self._masks: Shards | None = None

    @property
    def renamed(self) -> bool:
        """Whether the model comes from a folder, and will have other names than there."""
        return self._source is None and self._loaded.source.folder is not None

    def prepare(self, anew: bool) -> None:
        """Make the files, in which only the blocks are missing, and wait until they are on the disk.

        ``anew``: whether no block is in them yet. Otherwise those that are there stay; checksums tell which those are.
        """
        source = self._source
        if source is not None:
            source.outline(self.folder, {key for keys in self._keys.values() for key in keys.values()})
            if (source.folder / INDEX_FILE).is_file() and source.files != [SINGLE_FILE]:
                shutil.copyfile(source.folder / INDEX_FILE, self.folder / INDEX_FILE)
        elif anew or not self._is_whole():
            save_weights(self._loaded.model, self.folder)
        write_index(self.folder)
        make_masks(self.folder, [linear for block in self._blocks for linear in block.linears])
        self._open()
        for path in self.folder.glob("*.safetensors*"):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def _is_whole(self) -> bool:
        try:
            Shards(self.folder, weight_files(self.folder))
        except (OSError, SafetensorError):
            return False
        return True

    def _open(self) -> None:
        self._shards = Shards(self.folder, weight_files(self.folder))
        self._masks = Shards(self.folder, [MASK_FILE])
        if self._source is not None:
            return
        names = {b.index: [f"{b.name}.{name}" for name, _ in b.module.named_parameters()] for b in self._blocks}
        places = self._shards.places
        self._keys = {index: {name: name for name in found if name in places} for index, found in names.items()}

    def write(
        self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], moves: Sequence[Move]
    ) -> tuple[str, dict[str, int]]:
        """Put a block into the files, and wait until it is on the disk.

        ``weights``: its parameters, as computed, by their names in the model, on the CPU. Returns a checksum of what
        was written, and the kept weights that are zero, by weight name.
        """
        assert self._shards is not None
        assert self._masks is not None
        kept_zeros: dict[str, int] = {}
        content = self._content(block, weights, masks, moves, kept_zeros)
        digest = checksum(
            tensor
            for shards, tensors in ((self._shards, content), (self._masks, sorted(masks.items())))
            for tensor in _written(shards, tensors)
        )
        self._shards.sync(self._keys[block.index].values())
        self._masks.sync(masks)
        return digest, kept_zeros

    def copy(self, block: Block, shards: Shards, masks: Shards) -> tuple[str, dict[str, int]]:
        """As :meth:`write`, with what the files of another run have.

        Raises:
            TrimPruneError: they are not of the same model.
        """
        assert self._shards is not None
        assert self._masks is not None
        names = [linear.weight_name for linear in block.linears]
        wanted = ((self._shards, shards, self._keys[block.index].values()), (self._masks, masks, names))
        for own, other, keys in wanted:
            for key in keys:
                place, there = own.places[key], other.places.get(key)
                if there is None or (there.shape, there.dtype) != (place.shape, place.dtype):
                    raise TrimPruneError(
                        "the earlier run is of another model",
                        where=f"{other.folder}, {key}",
                        expected=f"{place.dtype or torch.uint8} {list(place.shape)}",
                        got="nothing" if there is None else f"{there.dtype or torch.uint8} {list(there.shape)}",
                    )
            for key, tensor in other.read(keys):
                own.write(key, tensor)
        kept_zeros = {}
        for name in names:
            weight = shards.get(self._keys[block.index][name])
            kept_zeros[name] = _zeros(weight[unpack_bits(masks.get(name), weight.shape[1])])
        return self.checksum(block), kept_zeros

    def checksum(self, block: Block) -> str:
        """That of a block as it is in the files."""
        assert self._shards is not None
        assert self._masks is not None
        masks = sorted(linear.weight_name for linear in block.linears)
        found = chain(self._shards.read(self._keys[block.index].values()), self._masks.read(masks))
        return checksum(tensor for _, tensor in found)

    def load(self, block: Block) -> None:
        """Give a block the weights that it has in the files."""
        assert self._shards is not None
        names = {key: _within(block, name) for name, key in self._keys[block.index].items()}
        for key, tensor in self._shards.read(names):
            block.module.get_parameter(names[key]).data.copy_(tensor)

    def round(self, block: Block) -> None:
        """Bring pruned weights to the type in which they are stored: later blocks see what is written.

        A run that goes on from the files has the same bits so.
        """
        assert self._shards is not None
        for linear in block.linears:
            weight = linear.module.weight.data
            stored = self._shards.places[self._keys[block.index][linear.weight_name]].dtype
            if stored is not None and torch.promote_types(stored, weight.dtype) != stored:
                weight.copy_(weight.to(stored))

    def finish(self, results: Sequence[LinearResult], kept_zeros: Mapping[str, int]) -> None:
        """Add configuration and tokenizer, and check what was written."""
        if self._loaded.source.folder is not None:
            copy_companions(self._loaded.source.folder, self.folder)
        else:
            save_companions(self._loaded, self.folder)
        self._verify(results, kept_zeros)

    def _content(
        self,
        block: Block,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        moves: Sequence[Move],
        kept_zeros: dict[str, int],
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a block in their stored types, by their stored names."""
        assert self._shards is not None
        names, moved = {key: name for name, key in self._keys[block.index].items()}, {m.parameter: m for m in moves}
        for key, tensor in (self._source or self._shards).read(names):
            name = names[key]
            if self._source is None:
                tensor = weights[name]
            elif name in moved:
                tensor = moved[name].of(tensor)
            if name in masks:
                kept = unpack_bits(masks[name], tensor.shape[1])
                tensor = _merge(tensor, weights[name], kept)
                kept_zeros[name] = _zeros(tensor[kept])
            yield key, tensor

    def _verify(self, results: Sequence[LinearResult], kept_zeros: Mapping[str, int]) -> None:
        """Reopen what was written and count.

        Each mask must prune exactly ``prune_count`` weights, all of them zero, and no other weight may be zero but the
        ``kept_zeros``: kept weights whose value was zero to begin with.
        """
        self._open()
        assert self._shards is not None
        assert self._masks is not None
        counts = {f"{result.name}.weight": result.prune_count for result in results}
        for block in self._blocks:
            for linear in block.linears:
                name = linear.weight_name
                key = self._keys[block.index][name]
                weight = self._shards.get(key)
                pruned = ~unpack_bits(self._masks.get(name), weight.shape[1])
                where = f"{self._shards.places[key].file}, {key}"
                _check_counts(where, weight, pruned, counts[name], kept_zeros[name])


def _stored(loaded: LoadedModel, blocks: Sequence[Block]) -> tuple[Shards | None, Mapping[int, Mapping[str, str]]]:
    """The source of the weights, and the stored name of each parameter of each block that has one there.

    No source where the model comes from memory, or a linear was converted while it was loaded.
    """
    if loaded.store is not None:
        return loaded.store.shards, {block.index: loaded.store.keys(block) for block in blocks}
    if loaded.source.folder is None:
        return None, {}
    shards, prefix = Shards(loaded.source.folder, weight_files(loaded.source.folder)), loaded.model.base_model_prefix
    keys: dict[int, dict[str, str]] = {}
    for block in blocks:
        found: dict[str, str] = {}
        for name in (f"{block.name}.{name}" for name, _ in block.module.named_parameters()):
            found |= shards.find([name], prefix) or {}
        if any(linear.weight_name not in found for linear in block.linears):
            return None, {}
        keys[block.index] = found
    return shards, keys


def _written(shards: Shards, tensors: Iterator[tuple[str, Tensor]] | list[tuple[str, Tensor]]) -> Iterator[Tensor]:
    for name, tensor in tensors:
        shards.write(name, tensor)
        yield tensor


def _within(block: Block, name: str) -> str:
    """The name of a parameter within its block."""
    return name.removeprefix(f"{block.name}.")


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


def _merge(stored: Tensor, computed: Tensor, kept: Tensor) -> Tensor:
    """The computed weight in the stored type; what the run left alone keeps its stored value to the bit."""
    unchanged = stored.to(computed.dtype) == computed
    return torch.where(unchanged, stored, computed.to(stored.dtype)).masked_fill_(~kept, 0)


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))


def save_weights(model: Any, folder: Path) -> None:
    """Write all tensors of a model as they are in memory."""
    from huggingface_hub import save_torch_state_dict

    # transformers 4 keeps a list of the tied names, transformers 5 a table.
    tied = list(getattr(model, "_tied_weights_keys", None) or [])
    save_torch_state_dict(model.state_dict(), folder, shared_tensors_to_discard=tied)


def write_index(folder: Path) -> None:
    """An index also for a single file: loaders that read every .safetensors file would take the masks for weights."""
    if (folder / INDEX_FILE).exists():
        return
    names = sorted(Shards(folder, [SINGLE_FILE]).places)
    size = (folder / SINGLE_FILE).stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, SINGLE_FILE)}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
