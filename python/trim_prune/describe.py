"""What a model consists of and what a prune would touch, from its configuration and file headers: no weight is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .models.coverage import MAX_UNCOVERED, coverage, uncovered_kinds
from .models.discover import Block, Linear, find_blocks, other_towers
from .models.dry_run import by_kind, shared_inputs
from .models.headers import header_folder, read_headers, without_weights


@dataclass(frozen=True)
class LinearKind:
    """Linears of one role: ``name`` within the block, ``*`` for the number of an expert.

    ``count``: how many a block has (more than one: of experts). ``shape``: (outputs, inputs). ``transposed``: its
    matrix lies in the model as [inputs, outputs]. ``input``: a letter for each tensor that linears of the block are
    handed: those with the same letter share their statistics; None if the forward could not be followed.
    """

    name: str
    count: int
    shape: tuple[int, int]
    dtype: str
    transposed: bool
    routed: bool
    input: str | None


@dataclass(frozen=True)
class BlockKind:
    """Blocks that are alike; ``blocks``: their numbers."""

    kind: str
    blocks: tuple[int, ...]
    linears: tuple[LinearKind, ...]


@dataclass(frozen=True)
class Uncovered:
    """A matrix of the blocks that no linear holds; * in its name is the number of a block, ``weights`` are of all."""

    name: str
    shape: tuple[int, ...]
    weights: int


@dataclass(frozen=True)
class Description:
    """A model as a prune sees it.

    ``path``: of the list of blocks. ``prunable``: weights in all linears. ``coverage``: their share of the weights in
    the matrices of the blocks. ``others``: lists of blocks that stay dense, with their parameters. ``ties``: names of
    parameters that are one.
    """

    model: str
    architecture: str
    parameters: int
    path: str
    blocks: tuple[BlockKind, ...]
    prunable: int
    coverage: float
    uncovered: tuple[Uncovered, ...]
    ties: tuple[tuple[str, ...], ...]
    others: dict[str, int]

    @property
    def refused(self) -> bool:
        """Whether a prune would refuse the model unless it may leave so much of its blocks dense."""
        return 1 - self.coverage > MAX_UNCOVERED


def describe(model: str | Path, *, trust_remote_code: bool = False) -> Description:
    """Describe the model in a folder, or of a hub id, of which only the configuration and the index are downloaded.

    Raises:
        TrimPruneError: no such model, not readable, or of a kind that has no decoder blocks.
    """
    folder = header_folder(model)
    made = without_weights(folder, str(model), trust_remote_code=trust_remote_code)
    return describe_model(made, str(model), read_headers(folder))


def describe_model(model: nn.Module, name: str, dtypes: dict[str, str] | None = None) -> Description:
    """Describe a model object, which may be on the meta device; ``dtypes``: of tensors in files, by their names."""
    blocks = find_blocks(model)
    inputs = shared_inputs(model, blocks)
    prefix = getattr(model, "base_model_prefix", "")
    return Description(
        model=name,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        path=blocks[0].name.rpartition(".")[0],
        blocks=tuple(_block_kind(found, inputs, dtypes or {}, prefix) for found in by_kind(blocks).values()),
        prunable=sum(linear.size for block in blocks for linear in block.linears),
        coverage=coverage(blocks),
        uncovered=tuple(Uncovered(*kind) for kind in uncovered_kinds(blocks)),
        ties=_ties(model),
        others=other_towers(model, blocks),
    )


def _block_kind(
    alike: Sequence[Block], inputs: dict[Linear, int] | None, dtypes: dict[str, str], prefix: str
) -> BlockKind:
    block = alike[0]
    roles: dict[str, list[Linear]] = {}
    for linear in block.linears:
        name = linear.name.removeprefix(f"{block.name}.")
        roles.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name) if linear.routed else name, []).append(linear)
    letters: dict[int, str] = {}
    found = []
    for name, linears in roles.items():
        first = linears[0]
        letter = None
        if inputs is not None and not first.routed and first in inputs:
            letter = letters.setdefault(inputs[first], chr(ord("a") + len(letters) % 26))
        stored = (first.weight_name, first.weight_name.removeprefix(f"{prefix}."))
        dtype = next((dtypes[key] for key in stored if key in dtypes), str(first.weight.dtype).removeprefix("torch."))
        found.append(LinearKind(name, len(linears), first.shape, dtype, first.transposed, first.routed, letter))
    return BlockKind(type(block.module).__name__, tuple(member.index for member in alike), tuple(found))


def _ties(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(tied) for tied in names.values() if len(tied) > 1)


def report(description: Description) -> str:
    """The description in lines."""
    head = [
        ("model", f"{description.architecture}, {description.parameters} parameters"),
        ("blocks", f"{sum(len(kind.blocks) for kind in description.blocks)} in {description.path}"),
        ("prunable", f"{description.prunable} weights, {description.prunable / description.parameters:.1%} of all"),
        ("coverage", f"{description.coverage:.2%} of the weights in the matrices of the blocks"),
        *(("uncovered", f"{u.name} {list(u.shape)}, {u.weights} weights") for u in description.uncovered),
        *(("ties", " = ".join(tied)) for tied in description.ties),
        *(("dense", f"{name}: {weights} parameters") for name, weights in description.others.items()),
    ]
    if description.refused:
        head.append(("refused", "more than 1% of the blocks is uncovered: prune asks for --allow-uncovered"))
    lines = [f"{label:<9}  {text}" for label, text in head]
    for kind in description.blocks:
        lines += ["", f"{len(kind.blocks)} x {kind.kind}: block {ranges(kind.blocks)}"]
        rows = [("linear", "outputs", "inputs", "type", "input"), *map(_row, kind.linears)]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _row(linear: LinearKind) -> tuple[str, str, str, str, str]:
    name = linear.name + (f" ({linear.count})" if linear.count > 1 else "")
    source = "of its expert" if linear.routed else linear.input or "unknown"
    rows, columns = linear.shape
    return name, str(rows), str(columns), linear.dtype + (", transposed" if linear.transposed else ""), source


def ranges(numbers: Sequence[int]) -> str:
    """0-3, 5, 7-8."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def to_json(description: Description) -> dict[str, Any]:
    """The description as plain values."""
    return asdict(description) | {"refused": description.refused}
