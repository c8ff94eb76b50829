"""What the parts of a block are, by structure: the units that can go, and the rows and columns that go with each.

Both parts have the same form. Some linears, the producers, give each unit its rows; what becomes of them reaches one
linear, the consumer, where the unit has its columns. A unit of attention is a KV group, all query heads that read one
key and value head; a unit of the feed-forward part is a channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import TrimPruneError
from ..models.discover import Block

Kind = Literal["attention", "feed-forward"]
UNITS: Mapping[Kind, str] = {"attention": "KV groups", "feed-forward": "channels"}

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("o_proj", "out_proj"))
FUSED = ("query_key_value", "dense")
"""Query, key and value of a head are rows one after the other: the layout of GPT-NeoX."""
CHANNELS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
)
LOOKED_FOR: Mapping[Kind, str] = {
    "attention": "q_proj, k_proj, v_proj with o_proj or out_proj, or query_key_value with dense",
    "feed-forward": "up_proj (with gate_proj or without) with down_proj, fc1 with fc2, or dense_h_to_4h with "
    "dense_4h_to_h",
}


@dataclass(frozen=True)
class Producer:
    """A linear whose rows belong to units, ``rows`` to each; ``name``: its path in the block."""

    name: str
    rows: int


@dataclass(frozen=True, eq=False)
class Part:
    """Attention or feed-forward part of a block, as it is before anything goes.

    ``holder``: path in the block of the module that has the linears. ``width``: columns of the consumer for each unit.
    ``heads``: query heads of each unit; 0 for channels. ``unit_parameters``: how many parameters go with a unit.
    """

    kind: Kind
    block: Block
    holder: str
    producers: tuple[Producer, ...]
    consumer: str
    units: int
    width: int
    heads: int
    unit_parameters: int

    def linear(self, name: str) -> nn.Linear:
        """The linear that has this path in the block now."""
        found = self.block.module.get_submodule(name)
        assert isinstance(found, nn.Linear)
        return found

    @property
    def weight(self) -> Tensor:
        """[D, units * width]: that of the consumer."""
        return self.linear(self.consumer).weight.data

    @property
    def where(self) -> str:
        """For error messages."""
        return f"block {self.block.index}, {self.kind}"


@dataclass(frozen=True, eq=False)
class BlockParts:
    """The parts of one block."""

    attention: Part
    feed_forward: Part

    def __iter__(self) -> Iterator[Part]:
        """In the order in which they are pruned."""
        yield self.attention
        yield self.feed_forward


def find_parts(block: Block, config: Any) -> BlockParts:
    """The attention and the feed-forward part of a block.

    The width of a head is read, from the attention module or from the configuration, and never derived.

    Raises:
        TrimPruneError: the block does not hold exactly one of each, or their shapes are not those of heads or channels.
    """
    attention = [
        part
        for name, module in block.module.named_modules()
        for part in _attention(block, name, _linears(module), module, config)
    ]
    feed_forward = [
        part for name, module in block.module.named_modules() for part in _feed_forward(block, name, _linears(module))
    ]
    return BlockParts(_only(block, "attention", attention), _only(block, "feed-forward", feed_forward))


def _only(block: Block, kind: Kind, found: Sequence[Part]) -> Part:
    if len(found) == 1:
        return found[0]
    names = [linear.name.removeprefix(f"{block.name}.") for linear in block.linears]
    raise TrimPruneError(
        f"no {kind} part that can be pruned by {UNITS[kind]}" if not found else f"more than one {kind} part",
        where=f"block {block.index}, {block.name} ({type(block.module).__name__})",
        expected=f"one module with the linears {LOOKED_FOR[kind]}",
        got=", ".join(part.holder for part in found) or f"the linears {', '.join(names)}",
        fix="a recipe with a sparsity prunes the single weights of any linear",
    )


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}


def _attention(
    block: Block, holder: str, linears: Mapping[str, nn.Linear], module: nn.Module, config: Any
) -> Iterator[Part]:
    names, ends = SEPARATE
    end = next((name for name in ends if name in linears), None)
    separate = all(name in linears for name in names) and end is not None
    if not separate and not all(name in linears for name in FUSED):
        return
    width = _head_width(block, holder, module, config)
    if separate:
        assert end is not None
        query, key, value = (linears[name].out_features for name in names)
        units, repeats = key // width, query // key
        rows = {"q_proj": repeats * width, "k_proj": width, "v_proj": width}
        fits = (units * width, units * width, units * repeats * width) == (key, value, query)
    else:
        end = FUSED[1]
        units, repeats = linears[FUSED[0]].out_features // (3 * width), 1
        rows = {FUSED[0]: 3 * width}
        fits = units * 3 * width == linears[FUSED[0]].out_features
    if not fits or units * repeats * width != linears[end].in_features:
        shapes = {name: tuple(linears[name].weight.shape) for name in (*rows, end)}
        raise TrimPruneError(
            "the linears of an attention do not hold whole heads",
            where=f"block {block.index}, {holder}",
            expected=f"heads of {width}, and as many columns of {end} as queries have rows",
            got=", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in shapes.items()),
        )
    yield _part("attention", block, holder, linears, rows, end, units, repeats * width, repeats)


def _head_width(block: Block, holder: str, module: nn.Module, config: Any) -> int:
    for owner, name in ((module, "head_dim"), (module, "head_size"), (config, "head_dim")):
        width = getattr(owner, name, None)
        if isinstance(width, int):
            return width
    raise TrimPruneError(
        "an attention does not say how wide its heads are",
        where=f"block {block.index}, {holder}",
        expected="head_dim or head_size of the module, or head_dim in the configuration",
    )


def _feed_forward(block: Block, holder: str, linears: Mapping[str, nn.Linear]) -> Iterator[Part]:
    for names, end in CHANNELS:
        if end in linears and all(name in linears for name in names):
            units = linears[end].in_features
            if any(linears[name].out_features != units for name in names):
                raise TrimPruneError(
                    "the linears of a feed-forward part do not hold the same channels",
                    where=f"block {block.index}, {holder or block.name}",
                    expected=f"{units} rows in {', '.join(names)}, as {end} has columns",
                    got=", ".join(str(linears[name].out_features) for name in names),
                )
            yield _part("feed-forward", block, holder, linears, dict.fromkeys(names, 1), end, units, 1, 0)
            return


def _part(
    kind: Kind,
    block: Block,
    holder: str,
    linears: Mapping[str, nn.Linear],
    rows: Mapping[str, int],
    end: str,
    units: int,
    width: int,
    heads: int,
) -> Part:
    prefix = f"{holder}." if holder else ""
    parameters = linears[end].out_features * width
    for name, count in rows.items():
        parameters += count * (linears[name].in_features + (linears[name].bias is not None))
    producers = tuple(Producer(prefix + name, count) for name, count in rows.items())
    return Part(kind, block, holder, producers, prefix + end, units, width, heads, parameters)
