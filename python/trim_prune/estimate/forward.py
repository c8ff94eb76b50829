"""What the forward of a block takes beside its weights: counted on a forward that computes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..models.discover import Block
from ..models.dry_run import Forward, by_kind, kind_of, run_kinds

CPU, META = torch.device("cpu"), torch.device("meta")


@dataclass(frozen=True)
class Workspace:
    """Bytes that the forward of a block takes at most, its output among them: ``fixed + batch * sequences``."""

    fixed: int
    batch: int

    def of(self, sequences: int) -> int:
        """With so many sequences at once."""
        return self.fixed + self.batch * sequences


@torch.no_grad()
def forward_workspace(model: nn.Module, blocks: Sequence[Block], tokens: int) -> Workspace:
    """For sequences of so many tokens, the most that one of the blocks takes.

    Forwards of one sequence and of two run with tensors that have shapes and no data, so this is exact for any
    architecture, but for what a library takes inside one operation. Where the forward depends on data (experts), the
    outputs of all linears that are no experts, twice those of the largest expert, and four hidden states are counted.
    """
    kinds = by_kind(blocks)
    try:
        # The first forward of a process also makes what later ones find.
        _, one, two = (_peaks(model, blocks, sequences, tokens) for sequences in (1, 1, 2))
    except Exception:
        # Whatever an unknown model raises when it is given tensors without data.
        return max((_counted(block, tokens) for block, *_ in kinds.values()), key=lambda found: found.batch)
    found = [Workspace(2 * one[kind] - two[kind], two[kind] - one[kind]) for kind in kinds]
    return max(found, key=lambda workspace: workspace.of(2))


def _counted(block: Block, tokens: int) -> Workspace:
    element = max(parameter.element_size() for parameter in block.module.parameters())
    outputs = sum(linear.shape[0] for linear in block.linears if not linear.routed)
    routed = [sum(linear.shape) for linear in block.linears if linear.routed]
    hidden = max(min(linear.shape) for linear in block.linears)
    return Workspace(0, tokens * element * (outputs + 2 * max(routed, default=0) + 4 * hidden))


def _peaks(model: nn.Module, blocks: Sequence[Block], sequences: int, tokens: int) -> dict[object, int]:
    """The most that a block of each kind takes."""
    found: dict[object, int] = {}

    def run(block: Block, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
        with _without_data(block.module), _Attention(), _Live() as live:
            outputs = forward(*args, **kwargs)
        found[kind_of(block)] = live.peak
        return outputs

    device = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), CPU)
    run_kinds(model, blocks, torch.zeros(sequences, tokens, dtype=torch.int64, device=device), run)
    return found


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside this context; ``peak``: the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(found):
            self._note(tensor.untyped_storage(), given)
        return found

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and key not in given:
            self._known.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


class _Attention(TorchFunctionMode):
    """Attention as the fused kernels compute it: its output alone, and no matrix of scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            query, value = named["query"], named["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, values)
    return found


@contextmanager
def _without_data(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers of a module have no data inside this context."""
    tables: list[dict[str, Any]] = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    filled = [(table, name, value) for table in tables for name, value in table.items() if value is not None]
    try:
        for table, name, value in filled:
            empty = value.to(META)
            table[name] = nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty
        yield
    finally:
        for table, name, value in filled:
            table[name] = value
