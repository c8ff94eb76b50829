"""How much of the blocks the linears cover: what else is large there would stay dense without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ..errors import TrimPruneError
from .discover import Block, other_towers
from .wrappers import has_adapters

if TYPE_CHECKING:
    from ..recipe import Recipe

MAX_UNCOVERED = 0.01
SHOWN = 6


def coverage(blocks: Sequence[Block]) -> float:
    """Share of the weights in all matrices of the blocks that linears hold; vectors do not count, see ``Block``."""
    matrices = sum(p.numel() for block in blocks for p in block.matrices.values())
    return sum(linear.size for block in blocks for linear in block.linears) / matrices


def uncovered_kinds(blocks: Sequence[Block]) -> list[tuple[str, tuple[int, ...], int]]:
    """Name (with * for the number of the block), shape and count of the matrices outside linears, largest first."""
    kinds: dict[tuple[str, tuple[int, ...]], int] = {}
    for block in blocks:
        for name, parameter in block.uncovered.items():
            kind = re.sub(rf"^{re.escape(block.name)}\b", f"{block.name.rpartition('.')[0]}.*", name)
            key = (kind, tuple(parameter.shape))
            kinds[key] = kinds.get(key, 0) + parameter.numel()
    counts = sorted(kinds.items(), key=lambda item: -item[1])
    return [(name, shape, weights) for (name, shape), weights in counts]


def require_coverage(blocks: Sequence[Block], allowed: bool) -> None:
    """Refuse blocks more than a hundredth of whose weights lies in no linear, unless that is allowed."""
    share = 1 - coverage(blocks)
    if share > MAX_UNCOVERED and not allowed:
        raise TrimPruneError(
            "a part of the blocks cannot be pruned",
            where=_shown(blocks),
            expected=f"at least {1 - MAX_UNCOVERED:.0%} of the weights in nn.Linear, Conv1D, or parameters of fused "
            "experts whose module says is_transposed",
            got=f"{1 - share:.1%}",
            fix="--allow-uncovered (allow_uncovered: true) leaves these parameters as they are",
        )


def coverage_warnings(model: nn.Module, blocks: Sequence[Block], recipe: Recipe) -> list[str]:
    """What stays dense that one might expect to be pruned, one sentence for each kind of thing."""
    found = []
    towers = other_towers(model, blocks)
    if towers:
        dense = ", ".join(f"{name} ({weights} parameters)" for name, weights in towers.items())
        found.append(f"only the blocks of {blocks[0].name.rpartition('.')[0]} are pruned; these stay dense: {dense}")
    share = 1 - coverage(blocks)
    if share > MAX_UNCOVERED:
        found.append(f"{share:.1%} of the weights of the blocks lie in no linear and stay dense: {_shown(blocks)}")
    if has_adapters(model):
        found.append("the adapters stay dense, and are not written: once merged, they would fill the zeros")
    if recipe.correction and any(linear.routed for block in blocks for linear in block.linears):
        found.append("correction leaves out experts: in the dense model they see other tokens")
    return found


def _shown(blocks: Sequence[Block]) -> str:
    kinds = uncovered_kinds(blocks)
    shown = [f"{name} {list(shape)}" for name, shape, _ in kinds[:SHOWN]]
    return ", ".join(shown) + (f", and {len(kinds) - SHOWN} more" if len(kinds) > SHOWN else "")
