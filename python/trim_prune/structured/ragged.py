"""Models whose blocks differ in size: structure.json says the sizes, and a standard model is built with them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import TrimPruneError
from ..models.discover import Block, find_blocks
from ..models.load import STRUCTURE_FILE, auto_class
from ..models.wrappers import plain_state
from ..options import Strict, Whole
from .parts import BlockParts, find_parts
from .shrink import resize

GENERATION_FILE = "generation_config.json"


class BlockSizes(Strict):
    """What a block holds; whether the linears that end its parts have a bias."""

    kv_groups: Whole = Field(ge=1)
    channels: Whole = Field(ge=1)
    attention_bias: bool = Field(strict=True)
    feed_forward_bias: bool = Field(strict=True)


class Structure(Strict):
    """The content of structure.json."""

    format: Literal["trim-prune-structure"] = "trim-prune-structure"
    version: Literal[1] = 1
    blocks: tuple[BlockSizes, ...]


def write_ragged(model: Any, parts: Sequence[BlockParts], folder: Path, *, max_shard_size: int | str = "5GB") -> None:
    """Write the weights under the names that they have in memory, the configuration, and structure.json beside it.

    Not by save_pretrained, which gives some weights the names of older checkpoints, for transformers to translate.
    """
    from huggingface_hub import save_torch_state_dict

    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    # transformers 4 keeps a list of the tied names, transformers 5 a table.
    tied = list(getattr(model, "_tied_weights_keys", None) or [])
    save_torch_state_dict(plain_state(model), folder, shared_tensors_to_discard=tied, max_shard_size=max_shard_size)
    _write_structure(parts, folder)


def _write_structure(parts: Sequence[BlockParts], folder: Path) -> None:
    """Write structure.json for blocks as they are now."""
    sizes = []
    for each in parts:
        ends = [part.linear(part.consumer) for part in each]
        units = [end.in_features // part.width for end, part in zip(ends, each, strict=True)]
        biases = [end.bias is not None for end in ends]
        sizes.append(
            BlockSizes(kv_groups=units[0], channels=units[1], attention_bias=biases[0], feed_forward_bias=biases[1])
        )
    text = Structure(blocks=tuple(sizes)).model_dump_json(indent=1)
    (folder / STRUCTURE_FILE).write_text(text + "\n", encoding="utf-8")


def load_ragged(folder: Path, config: Any, dtype: torch.dtype | None) -> Any:
    """The model in a folder with structure.json: transformers' own class, with linears of the stored sizes.

    ``dtype`` None: as stored. Only JSON and safetensors are read, and no code from the folder is run.

    Raises:
        TrimPruneError: structure.json is not what it should be, or does not fit the configuration or the weights.
    """
    from accelerate import init_empty_weights
    from transformers import GenerationConfig

    with init_empty_weights():
        model: Any = auto_class(config).from_config(config)
    give_sizes(model, folder)
    _fill(model, folder, dtype)
    if (folder / GENERATION_FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def give_sizes(model: Any, folder: Path) -> None:
    """Give the blocks of a model without weights the sizes that the folder's structure.json names.

    Raises:
        TrimPruneError: structure.json is not what it should be, or does not fit the model.
    """
    structure = _read(folder / STRUCTURE_FILE)
    blocks = find_blocks(model)
    if len(blocks) != len(structure.blocks):
        raise TrimPruneError(
            "structure.json does not fit config.json",
            where=str(folder),
            expected=f"the sizes of {len(blocks)} blocks",
            got=f"those of {len(structure.blocks)}",
        )
    for block, sizes in zip(blocks, structure.blocks, strict=True):
        _resize(block, model.config, sizes)


def _read(file: Path) -> Structure:
    try:
        return Structure.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TrimPruneError(f"cannot read {file.name}: {error}", where=str(file)) from None
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise TrimPruneError(f"{file.name} is not valid: {place}: {detail['msg']}", where=str(file)) from None


def _resize(block: Block, config: Any, sizes: BlockSizes) -> None:
    parts = find_parts(block, config)
    resize(parts.attention, sizes.kv_groups, bias=sizes.attention_bias)
    resize(parts.feed_forward, sizes.channels, bias=sizes.feed_forward_bias)


def _fill(model: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(file).items():
            tensors[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    try:
        unexpected = model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:
        raise _unfit(folder, str(error).splitlines()[-1].strip()) from None
    model.tie_weights()  # type: ignore[operator]
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing or unexpected:
        raise _unfit(folder, f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}")


def _unfit(folder: Path, got: str) -> TrimPruneError:
    return TrimPruneError(
        "the weights do not fit structure.json", where=str(folder), got=got, fix="fetch or write the folder again"
    )
