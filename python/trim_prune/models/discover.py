"""Find the decoder blocks of a model and the linears inside them, by structure only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import TrimPruneError
from .wrappers import parts, unwrap_module


@dataclass(frozen=True, eq=False)
class Linear:
    """One weight matrix [R, C] of a block: outputs are inputs times its transpose. ``name``: its path in the model.

    ``module`` holds it in ``parameter``: alone, or at place ``expert`` among those of other experts; ``transposed`` if
    it lies there as [C, R]. ``routed``: of an expert, which sees only the tokens that a router sends to it.
    """

    name: str
    block: int
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None
    transposed: bool = False
    routed: bool = False

    @property
    def weight_name(self) -> str:
        """The name in the model's state dict of the parameter that holds the weight."""
        if self.expert is None:
            return f"{self.name}.{self.parameter}"
        return f"{self.name.removesuffix(f'.{self.expert}.{self.parameter}')}.{self.parameter}"

    @property
    def whole(self) -> nn.Parameter:
        """The parameter that holds the weight."""
        found: nn.Parameter = self.module.get_parameter(self.parameter)
        return found

    def of(self, values: Tensor) -> Tensor:
        """The part [R, C] that is the weight's of something shaped like its parameter; a view."""
        matrix = values if self.expert is None else values[self.expert]
        return matrix.t() if self.transposed else matrix

    @property
    def weight(self) -> Tensor:
        """[R, C], a view: what is written to it is written to the model. Not contiguous if it lies transposed."""
        return self.of(self.whole.data)

    @contextmanager
    def edited(self) -> Iterator[Tensor]:
        """The weight [R, C], contiguous; what is done to it inside the context is done to the model."""
        view = self.weight
        weight = view.contiguous()
        yield weight
        if weight is not view:
            view.copy_(weight)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        rows, columns = self.weight.shape
        return rows, columns

    @property
    def size(self) -> int:
        """Number of weights."""
        rows, columns = self.shape
        return rows * columns


class Store(Protocol):
    """Where the weights of blocks are while nobody needs them."""

    def fetch(self, block: Block, device: torch.device) -> None:
        """Put the weights of a block on a device."""

    def drop(self, block: Block) -> None:
        """Free them again; what was changed in them is lost."""


@dataclass(frozen=True, eq=False)
class Block:
    """One decoder layer of the model; ``store``: where its weights are, None: in memory, always."""

    index: int
    name: str
    module: nn.Module
    linears: tuple[Linear, ...]
    store: Store | None = None

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The block's parameters by their names in the model."""
        return {
            f"{name}.{key}": parameter
            for name, module in parts(self.module, self.name)
            for key, parameter in module.named_parameters(recurse=False)
        }

    @property
    def matrices(self) -> Mapping[str, nn.Parameter]:
        """Those of two dimensions or more: vectors (norms, biases) are never pruned."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.dim() >= 2}

    @property
    def uncovered(self) -> Mapping[str, nn.Parameter]:
        """Those of the matrices that hold no linear."""
        held = {id(linear.whole) for linear in self.linears}
        return {name: parameter for name, parameter in self.matrices.items() if id(parameter) not in held}


def find_blocks(model: nn.Module, store: Store | None = None) -> list[Block]:
    """The decoder blocks: the longest ``nn.ModuleList`` all of whose members contain linears.

    Where the model names its input embedding, the lists nearest to it come first: those of the language tower. A list
    inside the members of another one (the experts of a block, say) is never chosen. Embeddings and the output head lie
    outside the blocks and are never touched.
    """
    found = _lists(model)
    if not found:
        kinds = Counter(type(m).__name__ for m in model.modules() if list(m.parameters(recurse=False)))
        raise TrimPruneError(
            f"found no decoder blocks in {type(model).__name__}",
            expected="an nn.ModuleList whose members contain nn.Linear, Conv1D or fused experts",
            got="modules with weights: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8)),
        )
    chosen = _chosen(model, found)
    blocks = []
    for index, wrapped in enumerate(found[chosen]):
        name, module = f"{chosen}.{index}" if chosen else str(index), unwrap_module(wrapped)
        blocks.append(Block(index, name, module, find_linears(module, name, index), store))
    _refuse_shared_weights(blocks)
    return blocks


def other_towers(model: nn.Module, blocks: Sequence[Block]) -> dict[str, int]:
    """The lists of blocks that are not pruned (a vision tower, say), with the number of parameters of each."""
    chosen = blocks[0].name.rpartition(".")[0]
    return {name: _weights(module) for name, module in _lists(model).items() if name != chosen}


def find_linears(module: nn.Module, name: str, block: int) -> tuple[Linear, ...]:
    """The linears in the module of a block, but for routers: they choose experts, and are tiny beside them."""
    found: list[Linear] = []
    routers = {id(router) for _, part in parts(module) for router in _routers(part)}
    experts = {id(inner) for _, part in parts(module) for expert in _experts(part) for _, inner in parts(expert)}
    for path, part in parts(module, name):
        if _fused(part):
            stacks = {key: p for key, p in part.named_parameters(recurse=False) if p.dim() == 3}
            found += [
                Linear(f"{path}.{expert}.{key}", block, part, key, expert, bool(part.is_transposed), routed=True)
                for expert in range(_number_of_experts(part))
                for key in stacks
            ]
        elif _is_linear(part) and id(part) not in routers:
            found.append(Linear(path, block, part, transposed=_is_conv1d(part), routed=id(part) in experts))
    return tuple(found)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear, whose weight is [inputs, outputs]. By name: importing transformers takes a second."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _fused(module: nn.Module) -> bool:
    """Whether a module holds the weights of all its experts in parameters of three dimensions, and says which way."""
    return isinstance(getattr(module, "is_transposed", None), bool) and _number_of_experts(module) > 0


def _number_of_experts(module: nn.Module) -> int:
    counts = {len(p) for p in module.parameters(recurse=False) if p.dim() == 3}
    return counts.pop() if len(counts) == 1 else 0


def _experts(module: nn.Module) -> Iterator[nn.Module]:
    """The experts that are a list of modules, if it is such a list."""
    if isinstance(module, nn.ModuleList) and len(module) > 1 and all(_holds_linears(member) for member in module):
        yield from module


def _routers(module: nn.Module) -> Iterator[nn.Module]:
    """The linears beside experts that have an output for each of them, or a single one: a gate."""
    children = [unwrap_module(child) for child in module.children()]
    counts = {_expert_count(child) for child in children} - {0}
    for child in children:
        if counts and _expert_count(child) == 0:
            for _, part in parts(child):
                if isinstance(part, nn.Linear) and part.out_features in counts | {1}:
                    yield part


def _expert_count(module: nn.Module) -> int:
    return _number_of_experts(module) if _fused(module) else len(list(_experts(module)))


def _holds_linears(module: nn.Module) -> bool:
    return any(_is_linear(part) or _fused(part) for _, part in parts(module))


def _lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The outermost lists all of whose members contain linears."""
    found = {
        name: module
        for name, module in parts(model)
        if isinstance(module, nn.ModuleList) and len(module) > 0 and all(_holds_linears(member) for member in module)
    }
    return {
        name: module
        for name, module in found.items()
        if not any(name.startswith(f"{other}.") for other in found if other != name)
    }


def _chosen(model: nn.Module, lists: Mapping[str, nn.ModuleList]) -> str:
    embedding = _embedding_path(model)

    def rank(name: str) -> tuple[int, int, int]:
        return _shared_depth(name.split("."), embedding), len(lists[name]), _weights(lists[name])

    return max(lists, key=rank)


def _embedding_path(model: nn.Module) -> list[str]:
    """Where the input embedding is; empty if the model does not say."""
    try:
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
    except (NotImplementedError, AttributeError):
        return []
    if embedding is None:
        return []
    inner = unwrap_module(embedding)
    return next((name.split(".") for name, module in parts(model) if module is inner), [])


def _shared_depth(left: Sequence[str], right: Sequence[str]) -> int:
    depth = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        depth += 1
    return depth


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _refuse_shared_weights(blocks: list[Block]) -> None:
    owner: dict[int, tuple[nn.Module, str]] = {}
    for block in blocks:
        for linear in block.linears:
            module, first = owner.setdefault(id(linear.whole), (linear.module, linear.name))
            if module is not linear.module:
                raise TrimPruneError(
                    "two linears share one weight, so pruning one would prune the other",
                    where=f"{first} and {linear.name}",
                    expected="a weight of its own in each linear",
                )
