"""What the parameters of a block are in the files of its model.

transformers 5 renames, joins and splits tensors while loading: experts that the files hold one by one become one
parameter, say. What is written has the names and shapes of the files again, and the masks lie over what is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from ..formats.masks import pack, unpack
from .discover import Block, Linear
from .shards import Shards

Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Piece:
    """Parameters of a block, and the tensors of files that hold their values.

    ``shapes``: of the parameters, by their names in the model. ``keys``: the names of the tensors. ``convert``: what
    makes these of those; None: of a single parameter, which is stored as it is.
    """

    shapes: Mapping[str, tuple[int, ...]]
    keys: tuple[str, ...]
    convert: Convert | None = None

    def to_files(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the files, of those of the parameters."""
        own = {name: tensors[name] for name in self.shapes}
        return dict(zip(self.keys, own.values(), strict=True)) if self.convert is None else self.convert(own)

    def to_parameters(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_files`."""
        if self.convert is None:
            return dict(zip(self.shapes, (tensors[key] for key in self.keys), strict=True))
        # The numbers of all values, converted, tell where each of them is.
        sizes = [prod(shape) for shape in self.shapes.values()]
        numbers = torch.split(torch.arange(sum(sizes)), sizes)
        shaped = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), numbers, strict=True)}
        values = torch.empty(sum(sizes), dtype=tensors[self.keys[0]].dtype)
        for key, places in self.to_files(shaped).items():
            values[places.flatten()] = tensors[key].flatten().to(values.dtype)
        parts = torch.split(values, sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Packed masks over the tensors, of those over the parameters; of parameters without one all is kept."""
        if not self.shapes.keys() & masks.keys():
            return {}
        if self.convert is None:
            return self.to_files(masks)
        kept = {
            name: unpack(masks[name], shape) if name in masks else torch.ones(shape, dtype=torch.bool)
            for name, shape in self.shapes.items()
        }
        return {key: pack(mask) for key, mask in self.to_files(kept).items()}

    def transposed(self, linears: Sequence[Linear]) -> frozenset[str]:
        """Those of the tensors whose matrices are [inputs, outputs]."""
        held = {linear.weight_name: linear for linear in linears if linear.weight_name in self.shapes}
        if self.convert is None:
            return frozenset(self.keys if any(linear.transposed for linear in held.values()) else ())
        # Marks that alternate along the inputs tell where they end up.
        marks = self.to_files(
            {
                name: _alternating(shape, held[name].transposed) if name in held else torch.zeros(shape).bool()
                for name, shape in self.shapes.items()
            }
        )
        return frozenset(
            key
            for key, mark in marks.items()
            if mark.dim() > 1 and mark.shape[-2] > 1 and bool((mark[..., 0, 0] != mark[..., 1, 0]).any())
        )


def find_pieces(block: Block, shards: Shards, prefix: str, convert: Convert) -> list[Piece] | None:
    """The pieces that the parameters of a block are in; None if the files do not hold one with a linear.

    ``prefix``: that checkpoints of the bare model lack. ``convert``: see :func:`conversion`.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in block.parameters.items()}
    pieces: list[Piece] = []
    together: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        piece = _piece({name: shape}, shards, prefix, convert) or _piece({name: shape}, shards, prefix, dict)
        if piece is None:
            together[name] = shape
        else:
            pieces.append(piece)
    piece = _piece(together, shards, prefix, convert) if together else None
    if piece is not None:
        pieces.append(piece)
    found = {name for piece in pieces for name in piece.shapes}
    return pieces if all(linear.weight_name in found for linear in block.linears) else None


def _piece(shapes: dict[str, tuple[int, ...]], shards: Shards, prefix: str, convert: Convert) -> Piece | None:
    """The piece of some parameters; None if what they become is not in the files in that shape."""
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    made = convert(empty)
    keys = shards.find(made, prefix)
    if keys is None or any(shards.places[keys[name]].shape != tuple(tensor.shape) for name, tensor in made.items()):
        return None
    if sum(tensor.numel() for tensor in made.values()) != sum(tensor.numel() for tensor in empty.values()):
        return None
    if len(made) == len(empty) == 1 and next(iter(made.values())) is next(iter(empty.values())):
        return Piece(shapes, tuple(keys.values()))

    def to_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {keys[name]: tensor for name, tensor in convert(tensors).items()}

    return Piece(shapes, tuple(keys.values()), to_files)


def conversion(model: nn.Module) -> Convert:
    """What undoes, on tensors by parameter names, what transformers does to the tensors of files while loading."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return lambda tensors: {_old_name(model, name): tensor for name, tensor in tensors.items()}

    def revert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))  # type: ignore[arg-type]
        return found

    return revert


def _old_name(model: nn.Module, name: str) -> str:
    """The name in files: transformers 4 takes "^language_model" to "model.language_model", say, for some models."""
    names: Mapping[str, str] = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    for old, new in names.items():
        if name.startswith(f"{new}."):
            # Conditions in brackets are about names that are not meant.
            return re.sub(r"\(.*\)", "", old).removeprefix("^") + name.removeprefix(new)
    return name


def _alternating(shape: tuple[int, ...], transposed: bool) -> Tensor:
    axis = -2 if transposed else -1
    marks = torch.arange(shape[axis]) % 2 == 1
    return (marks[:, None] if transposed else marks).expand(shape).contiguous()
