"""A model whose blocks stay on the disk: built without weights, of which those of one block are read at a time."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .discover import Block, find_blocks
from .shards import Shards


@dataclass(frozen=True)
class Stored:
    """The tensor in the files that a parameter is made of, and the types that it has on the way and in the end."""

    key: str
    first: torch.dtype
    last: torch.dtype

    def of(self, tensor: Tensor) -> Tensor:
        """The value of the parameter."""
        return tensor.to(self.first).to(self.last)


class BlocksOnDisk:
    """The weights of blocks, read from the shards of a model when a block's turn comes.

    A thread reads the next block ahead, in the direction in which the blocks are asked for: one block is where it is
    computed, and one more in memory.
    """

    def __init__(self, shards: Shards, parameters: Mapping[int, Mapping[str, Stored]]) -> None:
        """``parameters``: what each parameter of each block is made of, by its name in the block."""
        self.shards, self._parameters = shards, parameters
        self._empty: dict[int, dict[str, nn.Parameter]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trim-prune-reader")
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._last = -1

    def keys(self, block: Block) -> dict[str, str]:
        """The stored name of each parameter of a block, by its name in the model."""
        return {f"{block.name}.{name}": stored.key for name, stored in self._parameters[block.index].items()}

    def fetch(self, block: Block, device: torch.device) -> None:
        """See :class:`Store`."""
        index = block.index
        tensors = self._taken(index)
        following = index - 1 if self._last == index + 1 else index + 1
        self._last = index
        if following in self._parameters:
            self._ahead = following, self._thread.submit(self._read, following)
        self._empty[index] = dict(block.module.named_parameters())
        for name, parameter in self._empty[index].items():
            _put(block.module, name, nn.Parameter(tensors.pop(name).to(device), parameter.requires_grad))
        block.module.to(device)

    def drop(self, block: Block) -> None:
        """See :class:`Store`."""
        for name, parameter in self._empty.pop(block.index, {}).items():
            _put(block.module, name, parameter)
        for module in block.module.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.cpu()

    def _taken(self, index: int) -> dict[str, Tensor]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == index:
            return ahead[1].result()
        return self._read(index)

    def _read(self, index: int) -> dict[str, Tensor]:
        names = {stored.key: name for name, stored in self._parameters[index].items()}
        return {names[key]: self._parameters[index][names[key]].of(tensor) for key, tensor in self.shards.read(names)}


def open_blocks(model: Any, shards: Shards, dtype: torch.dtype) -> BlocksOnDisk | None:
    """Give a model without weights those outside its blocks, and a store of those inside.

    ``dtype``: the type to which stored weights are brought first, before they get that of the parameters. None, and
    nothing is done, where the files do not hold each parameter under its own name and in its own shape: transformers
    converts such a model while it loads it.
    """
    keys, called = stored_names(model, shards), _called(model, shards)
    if keys is None:
        return None
    blocks = {
        block.index: {
            name: Stored(keys.pop(f"{block.name}.{name}"), dtype, parameter.dtype)
            for name, parameter in block.module.named_parameters()
        }
        for block in find_blocks(model)
    }
    # With the buffers that are stored; what is tied to another parameter is not, and has no memory yet.
    rest = {name: tensor for name, tensor in model.state_dict().items() if name in keys or not tensor.is_meta}
    keys |= shards.find(rest.keys() - keys.keys(), model.base_model_prefix, called) or {}
    found = dict(shards.read(keys.values()))
    state = {name: Stored(key, dtype, rest[name].dtype).of(found[key]) for name, key in keys.items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return BlocksOnDisk(shards, blocks)


def stored_names(model: Any, shards: Shards) -> dict[str, str] | None:
    """The stored name of each parameter of a model; None where the files do not hold all of them as they are."""
    parameters, called = dict(model.named_parameters()), _called(model, shards)
    keys = None if called is None else shards.find(parameters, model.base_model_prefix, called)
    if keys is None or any(shards.places[keys[name]].shape != p.shape for name, p in parameters.items()):
        return None
    return keys


def _called(model: Any, shards: Shards) -> dict[str, str] | None:
    """What transformers calls each stored tensor; None if it makes new ones of some, such as one of all experts."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # transformers 4 renames nothing
        return {name: name for name in shards.places}
    called, steps = {}, get_model_conversion_mapping(model)
    for key in sorted(shards.places):
        name = key
        for step in steps:
            name, source = step.rename_source_key(name)
            if source is not None and getattr(step, "operations", None):
                return None
        called[key] = name
    return called


def build_empty(kind: Any, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model of a configuration, with parameters of that type that take no memory; ``kind``: of transformers."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = kind.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, last = name.rpartition(".")
    module.get_submodule(path)._parameters[last] = parameter
