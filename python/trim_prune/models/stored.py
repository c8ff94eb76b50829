"""Pruned weights and their masks in the form that the files of a model have them.

transformers 5 renames, joins and splits tensors while loading: experts that the files hold one by one become one
parameter, say. What is written has the names and shapes of the files again, and the masks lie over what is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .discover import Linear
from .masks import pack, unpack

Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Stored:
    """Tensors of files by their names.

    ``weights``: those with pruned weights. ``masks``: of these, uint8 [..., ceil(C/8)]. ``transposed``: the names of
    those whose matrices are [inputs, outputs].
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    transposed: frozenset[str]

    def renamed(self, names: Mapping[str, str]) -> Stored:
        """The same under other names."""
        return Stored(
            {names[name]: weight for name, weight in self.weights.items()},
            {names[name]: mask for name, mask in self.masks.items()},
            frozenset(names[name] for name in self.transposed),
        )


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


def as_parameters(linears: Iterable[Linear], state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Stored:
    """As the model has them."""
    transposed = frozenset(linear.weight_name for linear in linears if linear.transposed)
    return Stored({name: state[name] for name in masks}, dict(masks), transposed)


def as_files(
    linears: Sequence[Linear], state: Mapping[str, Tensor], masks: Mapping[str, Tensor], convert: Convert
) -> Stored:
    """As the files of the model have them. Block by block: unpacked masks are large."""
    weights: dict[str, Tensor] = {}
    packed: dict[str, Tensor] = {}
    transposed: set[str] = set()
    for block in sorted({linear.block for linear in linears}):
        held = {linear.weight_name: linear for linear in linears if linear.block == block}
        shapes = {name: tuple(state[name].shape) for name in held}
        weights |= convert({name: state[name] for name in held})
        kept = convert({name: unpack(masks[name], shape) for name, shape in shapes.items()})
        packed |= {name: pack(mask) for name, mask in kept.items()}
        # Marks that alternate along the inputs tell where they end up.
        marks = convert({name: _alternating(shape, held[name].transposed) for name, shape in shapes.items()})
        transposed |= {
            name
            for name, mark in marks.items()
            if mark.shape[-2] > 1 and bool((mark[..., 0, 0] != mark[..., 1, 0]).any())
        }
    return Stored(weights, packed, frozenset(transposed))


def _alternating(shape: tuple[int, ...], transposed: bool) -> Tensor:
    axis = -2 if transposed else -1
    marks = torch.arange(shape[axis]) % 2 == 1
    return (marks[:, None] if transposed else marks).expand(shape).contiguous()
