"""The output folder of a run while blocks are put into it one by one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..digest import checksum
from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE, unpack
from ..permutation import Move
from ..results import LinearResult
from .companions import copy_companions, save_companions
from .discover import Block
from .load import LoadedModel
from .masks import make_masks
from .sharding import reshard
from .shards import INDEX_FILE, SINGLE_FILE, Shards, weight_files
from .stored import Convert, Piece, conversion, find_pieces
from .wrappers import plain_state

LARGEST = 5 * 10**9
"""Bytes of a weight file where nobody says."""


class Output:
    """A model folder whose weight files and masks have their final size from the start.

    From a folder the files are those of the source, byte for byte but for what is pruned: every tensor in its place and
    with its stored type, so that nothing is lost when the run computes in another one. Where transformers converts
    weights while it loads them, what is pruned has the form of the files again, and so have the masks. A model from
    memory is saved first as it is.
    """

    def __init__(
        self, folder: Path, loaded: LoadedModel, blocks: Sequence[Block], max_shard_size: int | None = None
    ) -> None:
        """``max_shard_size``: bytes of the largest weight file; None: as in the source."""
        self.folder, self._loaded, self._blocks, self._max_size = folder, loaded, blocks, max_shard_size
        self._convert = conversion(loaded.model)
        self._source, self._pieces = _stored(loaded, blocks, self._convert)
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
            own = {key for block in self._blocks for key in self._keys(block)}
            if self._max_size is not None:
                reshard(source, self.folder, own, self._max_size)
            else:
                source.outline(self.folder, own)
            if self._max_size is None and (source.folder / INDEX_FILE).is_file() and source.files != [SINGLE_FILE]:
                shutil.copyfile(source.folder / INDEX_FILE, self.folder / INDEX_FILE)
        elif anew or not self._is_whole():
            save_weights(self._loaded.model, self.folder, self._max_size)
        write_index(self.folder)
        self._shards = Shards(self.folder, weight_files(self.folder))
        if source is None:
            pieces = _pieces(self._loaded.model, self._blocks, self._shards, self._convert)
            if pieces is None:
                raise TrimPruneError(
                    "transformers saves the linears of this model in a form that cannot be told",
                    where=type(self._loaded.model).__name__,
                    expected="tensors that hold the values of its parameters, renamed, joined, split or transposed",
                    fix="prune without an output folder, and save the model of the result",
                )
            self._pieces = pieces
        pruned = [(block, piece) for block in self._blocks for piece in self._pruned(block)]
        shapes = {key: self._shards.places[key].shape for _, piece in pruned for key in piece.keys}
        transposed = frozenset().union(*(piece.transposed(block.linears) for block, piece in pruned))
        make_masks(self.folder, shapes, transposed)
        self._masks = Shards(self.folder, [MASK_FILE])
        for path in self.folder.glob("*.safetensors*"):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def _is_whole(self) -> bool:
        try:
            Shards(self.folder, weight_files(self.folder))
        except (OSError, SafetensorError):
            return False
        return True

    def _keys(self, block: Block) -> list[str]:
        """The names of the tensors of a block."""
        return [key for piece in self._pieces[block.index] for key in piece.keys]

    def _pruned(self, block: Block) -> list[Piece]:
        """The pieces of a block that hold its linears."""
        names = {linear.weight_name for linear in block.linears}
        return [piece for piece in self._pieces[block.index] if piece.shapes.keys() & names]

    def write(
        self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], moves: Sequence[Move]
    ) -> tuple[str, dict[str, int]]:
        """Put a block into the files, and wait until it is on the disk.

        ``weights``: its parameters, as computed, and ``masks``, packed, by their names in the model, on the CPU.
        Returns a checksum of what was written, and the kept weights that are zero, by the names of the tensors.
        """
        assert self._shards is not None
        assert self._masks is not None
        kept_zeros: dict[str, int] = {}
        content = self._content(block, weights, masks, moves, kept_zeros)
        digest = checksum(_written(self._shards, self._masks, content))
        self._shards.sync(self._keys(block))
        self._masks.sync(kept_zeros)
        return digest, kept_zeros

    def copy(self, block: Block, shards: Shards, masks: Shards) -> tuple[str, dict[str, int]]:
        """As :meth:`write`, with what the files of another run have.

        Raises:
            TrimPruneError: they are not of the same model.
        """
        assert self._shards is not None
        assert self._masks is not None
        masked = [key for piece in self._pruned(block) for key in piece.keys]
        for own, other, keys in ((self._shards, shards, self._keys(block)), (self._masks, masks, masked)):
            for key in keys:
                place, there = own.places[key], other.places.get(key)
                if there is None or (there.shape, there.stored) != (place.shape, place.stored):
                    raise TrimPruneError(
                        "the earlier run is of another model",
                        where=f"{other.folder}, {key}",
                        expected=f"{place.stored} {list(place.shape)}",
                        got="nothing" if there is None else f"{there.stored} {list(there.shape)}",
                    )
            for key, tensor in other.read(keys):
                own.write(key, tensor)
        kept_zeros = {}
        for key in masked:
            weight = shards.get(key)
            kept_zeros[key] = _zeros(weight, unpack(masks.get(key), tuple(weight.shape)))
        return self.checksum(block), kept_zeros

    def checksum(self, block: Block) -> str:
        """That of a block as it is in the files."""
        assert self._shards is not None
        assert self._masks is not None
        return checksum(_in_files(self._shards, self._masks, self._pieces[block.index]))

    def load(self, block: Block) -> None:
        """Give a block the weights that it has in the files."""
        assert self._shards is not None
        parameters = block.parameters
        for piece in self._pieces[block.index]:
            for name, tensor in piece.to_parameters(dict(self._shards.read(piece.keys))).items():
                parameters[name].data.copy_(tensor)

    def round(self, block: Block) -> bool:
        """Bring pruned weights to the type in which they are stored: later blocks see what is written.

        A run that goes on from the files has the same bits so. Returns whether any weight has another type.
        """
        assert self._shards is not None
        parameters, rounded = block.parameters, False
        for piece in self._pruned(block):
            types = {key: self._shards.places[key].dtype for key in piece.keys}
            weights = {name: parameters[name].data for name in piece.shapes}
            if all(_holds(stored, weight.dtype) for stored in types.values() for weight in weights.values()):
                continue
            found = piece.to_files({name: weight.cpu() for name, weight in weights.items()})
            stored = {key: tensor.to(types[key]).to(tensor.dtype) for key, tensor in found.items()}
            for name, tensor in piece.to_parameters(stored).items():
                weights[name].copy_(tensor)
            rounded = True
        return rounded

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
    ) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """The tensors of a block in their stored types, by their stored names, and the masks over them."""
        assert self._shards is not None
        moved = {move.parameter: move for move in moves}
        for piece in self._pieces[block.index]:
            over = piece.masks(masks)
            computed = piece.to_files(weights) if over or self._source is None else {}
            stored = {} if self._source is None else _moved(piece, dict(self._source.read(piece.keys)), moved)
            for key in piece.keys:
                tensor = stored[key] if key in stored else computed[key]
                if key in over:
                    kept = unpack(over[key], tuple(tensor.shape))
                    tensor = _merge(tensor, computed[key], kept)
                    kept_zeros[key] = _zeros(tensor, kept)
                yield key, tensor, over.get(key)

    def _verify(self, results: Sequence[LinearResult], kept_zeros: Mapping[str, int]) -> None:
        """Reopen what was written and count.

        The masks must prune exactly the ``prune_count`` of the linears that they are of, what they prune must be zero,
        and no other weight may be zero but the ``kept_zeros``: kept weights whose value was zero to begin with.
        """
        shards, masks = Shards(self.folder, weight_files(self.folder)), Shards(self.folder, [MASK_FILE])
        counts: dict[str, int] = {}
        for result in results:
            counts[result.weight] = counts.get(result.weight, 0) + result.prune_count
        for piece in (piece for block in self._blocks for piece in self._pruned(block)):
            pruned = 0
            for key in piece.keys:
                weight = shards.get(key)
                gone = ~unpack(masks.get(key), tuple(weight.shape))
                pruned += int(gone.sum())
                _check_zeros(f"{shards.places[key].file}, {key}", weight, gone, kept_zeros[key])
            wanted = sum(counts.get(name, 0) for name in piece.shapes)
            if pruned != wanted:
                raise _other_than_computed(
                    f"{self.folder}, {', '.join(piece.keys)}", f"{wanted} pruned weights", f"{pruned} pruned weights"
                )


def _stored(
    loaded: LoadedModel, blocks: Sequence[Block], convert: Convert
) -> tuple[Shards | None, Mapping[int, list[Piece]]]:
    """The source of the weights, and what the parameters of each block are in its files.

    No source where the model comes from memory, or its linears are not in the files in a form that is known.
    """
    if loaded.store is not None:
        store = loaded.store
        return store.shards, {
            block.index: [
                Piece({name: store.shards.places[key].shape}, (key,)) for name, key in store.keys(block).items()
            ]
            for block in blocks
        }
    if loaded.source.folder is None:
        return None, {}
    shards = Shards(loaded.source.folder, weight_files(loaded.source.folder))
    pieces = _pieces(loaded.model, blocks, shards, convert)
    return (None, {}) if pieces is None else (shards, pieces)


def _pieces(model: Any, blocks: Sequence[Block], shards: Shards, convert: Convert) -> dict[int, list[Piece]] | None:
    found = {
        block.index: find_pieces(block, shards, getattr(model, "base_model_prefix", ""), convert) for block in blocks
    }
    known = {index: pieces for index, pieces in found.items() if pieces is not None}
    return known if len(known) == len(found) else None


def _moved(piece: Piece, stored: dict[str, Tensor], moves: Mapping[str, Move]) -> dict[str, Tensor]:
    """Tensors of files, with those parameters reordered that were."""
    if not piece.shapes.keys() & moves.keys():
        return stored
    parameters = piece.to_parameters(stored)
    found = {name: moves[name].of(value) if name in moves else value for name, value in parameters.items()}
    return piece.to_files(found)


def _written(shards: Shards, masks: Shards, content: Iterator[tuple[str, Tensor, Tensor | None]]) -> Iterator[Tensor]:
    for key, tensor, mask in content:
        shards.write(key, tensor)
        yield tensor
        if mask is not None:
            masks.write(key, mask)
            yield mask


def _in_files(shards: Shards, masks: Shards, pieces: Sequence[Piece]) -> Iterator[Tensor]:
    """What :func:`_written` gave."""
    over = dict(masks.read(key for piece in pieces for key in piece.keys if key in masks.places))
    for piece in pieces:
        found = dict(shards.read(piece.keys))
        for key in piece.keys:
            yield found[key]
            if key in over:
                yield over[key]


def _holds(stored: torch.dtype | None, computed: torch.dtype) -> bool:
    """Whether every value of the computed type is one of the stored type."""
    return stored is None or torch.promote_types(stored, computed) == stored


def _check_zeros(where: str, weight: Tensor, pruned: Tensor, kept_zeros: int) -> None:
    masked, zeros, gone = int(pruned.sum()), weight.numel() - int(torch.count_nonzero(weight)), _zeros(weight, pruned)
    stray = masked - gone
    if (zeros, stray) != (masked + kept_zeros, 0):
        raise _other_than_computed(
            where,
            f"{masked} pruned weights, all zero, and {kept_zeros} zeros among the kept ones",
            f"{stray} pruned weights that are not zero, and {zeros} zeros in all",
        )


def _other_than_computed(where: str, expected: str, got: str) -> TrimPruneError:
    return TrimPruneError(
        "the written model is not what was computed",
        where=where,
        expected=expected,
        got=got,
        fix="check the disk; the output folder was not created",
    )


def _merge(stored: Tensor, computed: Tensor, kept: Tensor) -> Tensor:
    """The computed weight in the stored type; what the run left alone keeps its stored value to the bit."""
    unchanged = stored.to(computed.dtype) == computed
    return torch.where(unchanged, stored, computed.to(stored.dtype)).masked_fill_(~kept, 0)


def _zeros(weight: Tensor, among: Tensor) -> int:
    """How many of some weights are zero; ``among``: bools of its shape."""
    # To take them out would need their places, sixteen bytes each.
    return int((among & (weight == 0)).sum())


def save_weights(model: Any, folder: Path, max_shard_size: int | None = None) -> None:
    """Write all tensors of a model as they are in memory, by the names that they have in files of such models.

    ``max_shard_size``: bytes of the largest file; None: five billion, as transformers does.
    """
    from huggingface_hub import save_torch_state_dict

    files = {name: _alone(tensor) for name, tensor in conversion(model)(plain_state(model)).items()}
    # transformers 4 keeps a list of the tied names, transformers 5 a table.
    tied = list(getattr(model, "_tied_weights_keys", None) or [])
    most = LARGEST if max_shard_size is None else max_shard_size
    save_torch_state_dict(files, folder, shared_tensors_to_discard=tied, max_shard_size=most)


def _alone(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, or as it is if all of its memory is its own: tied ones have to stay tied."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def write_index(folder: Path) -> None:
    """An index also for a single file: loaders that read every .safetensors file would take the masks for weights."""
    if (folder / INDEX_FILE).exists():
        return
    names = sorted(Shards(folder, [SINGLE_FILE]).places)
    size = (folder / SINGLE_FILE).stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, SINGLE_FILE)}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
