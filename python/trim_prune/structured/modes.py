"""What each mode of output can hold: which biases, which sizes; found out before the work."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import TrimPruneError
from ..models.wrappers import plain_state
from .parts import BlockParts, Part
from .recipe import Mode

HEADS, GROUPS, HEAD_WIDTH = "num_attention_heads", "num_key_value_heads", "head_dim"
CHANNELS = ("intermediate_size", "ffn_dim")
"""Entries of configurations."""

MEANING: Mapping[Mode, str] = {
    "ragged": "each block gets its own size; load it with trim_prune.load",
    "uniform": "every block gets the same size, so layer ratios cannot differ; config.json says it, and "
    "AutoModelForCausalLM loads it",
    "masked": "shapes stay and what goes is zero: neither smaller nor faster, loads like the original",
}

HEADS_BY_WIDTH: Mapping[str, str] = {
    "qwen2": "vLLM (0.33) takes the width of a head of this model from hidden_size and the number of heads, and cannot "
    "load fewer; transformers can, and with heads: none, whatever reads the original"
}
"""Model types of which a runtime that reads config.json ignores the width of a head, and what to say of it."""


def may_add_bias(mode: Mode, part: Part) -> bool:
    """Whether the output may hold a bias in the consumer: in ragged mode any, otherwise only one that is there."""
    return mode == "ragged" or part.linear(part.consumer).bias is not None


def uniform_config(config: Any, parts: BlockParts, groups: int, channels: int) -> Any:
    """The configuration of the same model with so many KV groups and channels in every block.

    Raises:
        TrimPruneError: the configuration has no entry for one of them.
    """
    changed = copy.deepcopy(config)
    width = next((name for name in CHANNELS if hasattr(config, name)), None)
    if width is None or not hasattr(config, HEADS):
        raise TrimPruneError(
            "mode uniform: the configuration does not say how large a block is",
            where=type(config).__name__,
            expected=f"{HEADS}, and {' or '.join(CHANNELS)}",
            fix="mode: ragged",
        )
    setattr(changed, width, channels)
    if groups != parts.attention.units:
        # Told, since by default many derive the width from the number of heads.
        setattr(changed, HEAD_WIDTH, parts.attention.width // parts.attention.heads)
        setattr(changed, HEADS, groups * parts.attention.heads)
        if hasattr(config, GROUPS):
            setattr(changed, GROUPS, groups)
    return changed


def problem(config: Any, shapes: Mapping[str, torch.Size]) -> str | None:
    """Why transformers does not make of a configuration, read from a file, a model with exactly these tensors.

    ``shapes``: by name, tied ones twice. None: it does.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        # Made anew, as from a file: some classes refuse there what they let pass when an attribute is set.
        read = type(config).from_dict(config.to_dict())
        with init_empty_weights():
            made: nn.Module = AutoModelForCausalLM.from_config(read)  # type: ignore[no-untyped-call]
    except Exception as error:
        return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
    found = {name: tensor.shape for name, tensor in made.state_dict().items()}
    return None if found == dict(shapes) else f"{type(config).__name__} makes tensors of other shapes"


def groups_can_stay(model: nn.Module, blocks: Sequence[BlockParts], groups: int) -> bool:
    """Whether the configuration of this model can say that every block has so many KV groups."""
    first = blocks[0]
    config = uniform_config(model.config, first, groups, first.feed_forward.units)
    gone = {parts.attention: parts.attention.units - groups for parts in blocks}
    return problem(config, shapes_without(model, blocks, gone)) is None


def shapes_without(model: nn.Module, blocks: Sequence[BlockParts], counts: Mapping[Part, int]) -> dict[str, torch.Size]:
    """The shapes of all stored tensors, tied ones twice, once so many units are gone from each part."""
    shapes = {name: tensor.shape for name, tensor in plain_state(model).items()}
    for part in (part for parts in blocks for part in parts if counts.get(part)):
        for producer in part.producers:
            for kind in ("weight", "bias"):
                name = f"{part.block.name}.{producer.name}.{kind}"
                if name in shapes:
                    rows, *rest = shapes[name]
                    shapes[name] = torch.Size([rows - counts[part] * producer.rows, *rest])
        name = f"{part.block.name}.{part.consumer}.weight"
        rows, columns = shapes[name]
        shapes[name] = torch.Size([rows, columns - counts[part] * part.width])
    return shapes
