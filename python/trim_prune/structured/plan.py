"""What a structured prune will do: the parts, their limits, and everything that can be refused before the work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import nn

from ..errors import TrimPruneError
from ..models.capture import PROBE_TOKENS, Call, Capture
from ..models.device import choose_device, evaluation_mode
from ..models.discover import Block, find_blocks
from ..models.wrappers import has_adapters
from .modes import HEADS_BY_WIDTH, MEANING, groups_can_stay, may_add_bias, problem, shapes_without, uniform_config
from .parts import UNITS, BlockParts, Part, find_parts
from .ratios import Share, by_table
from .recipe import Sizes, StructuredRecipe
from .shrink import indices, keep_units
from .target import CAP, MULTIPLE, Counts, Limits, divide, divide_evenly, out_of_reach

TOLERANCE = 1e-5
"""Share of the largest output by which outputs may differ: some modules of a float64 block compute in float32."""
FEWEST_TOKENS = 3
"""Two numbers for each output need more than two tokens."""


@dataclass(frozen=True)
class Plan:
    """What is known before the work.

    ``wanted``: how many parameters are to go; None if sizes say what stays. ``counts``: how many units go from each
    part; None until cosines are measured. ``notes``: what there is to say.
    """

    model: nn.Module
    recipe: StructuredRecipe
    device: torch.device
    blocks: list[Block]
    parts: list[BlockParts]
    limits: Limits
    wanted: int | None
    counts: Counts | None
    notes: tuple[str, ...]


def count_parameters(model: nn.Module) -> int:
    """All parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def make_plan(model: nn.Module, recipe: StructuredRecipe) -> Plan:
    """As :func:`outline`, having looked at the weights and tried the parts: refuses all that cannot be done."""
    if has_adapters(model):
        raise TrimPruneError(
            "adapters lie around linears of this model, and would not fit what is left of them",
            fix="merge them first: model.merge_and_unload()",
        )
    plan = outline(model, recipe)
    _refuse_not_finite(plan.parts)
    _try_parts(model, plan.blocks, heads=recipe.heads != "none")
    return plan


def outline(model: nn.Module, recipe: StructuredRecipe) -> Plan:
    """Find the parts, and refuse what sizes do not allow; no weight is read."""
    device, blocks = choose_device(recipe.device), find_blocks(model)
    _refuse_experts(blocks)
    parts = [find_parts(block, model.config) for block in blocks]
    heads, notes = recipe.heads != "none", [f"mode {recipe.mode}: {MEANING[recipe.mode]}"]
    if heads and all(each.attention.units == 1 for each in parts):
        raise _one_group(parts[0].attention)
    can_stay = cache(partial(groups_can_stay, model, parts))
    if recipe.mode == "uniform":
        _refuse_unlike(parts)
        if heads and not any(map(can_stay, range(parts[0].attention.units - 1, 0, -1))):
            heads = False
            notes.append(
                f"{type(model.config).__name__} has no word for fewer heads of the same width, so all "
                "heads stay and only channels go"
            )
    intercepts = {part: recipe.repair != "none" and may_add_bias(recipe.mode, part) for each in parts for part in each}
    if recipe.repair != "none" and not all(intercepts.values()):
        kinds = dict.fromkeys(part.kind for part, has in intercepts.items() if not has)
        notes.append(
            f"{' and '.join(kinds)}: no bias can be added in mode {recipe.mode}, so the repair has no intercept there"
        )

    added = {
        part: consumer.out_features if has and (consumer := part.linear(part.consumer)).bias is None else 0
        for part, has in intercepts.items()
    }
    parameters = count_parameters(model)
    cap = CAP if recipe.cap is None else recipe.cap
    head_share = (recipe.head_share or 1.0) if heads else 0.0
    limits = Limits(cap, head_share, added, parameters, _more(recipe, parts, heads=heads))
    wanted = None
    if recipe.kept_share is not None:
        stay = round(recipe.kept_share * parameters)
        wanted = parameters - stay
        verb = "are not to be zero" if recipe.mode == "masked" else "are to stay"
        notes.append(f"{stay} of {parameters} parameters {verb}; embeddings count, tied ones once")
    counts = _known_counts(recipe, blocks, parts, wanted, limits, can_stay)
    if counts is not None and recipe.mode == "uniform":
        _refuse_unspeakable(model, parts, counts)
        kept = [f"{part.units - counts[part]} of {part.units} {UNITS[part.kind]}" for part in parts[0]]
        notes.append(f"every block keeps {' and '.join(kept)}")
        if counts[parts[0].attention] and (caution := HEADS_BY_WIDTH.get(str(getattr(model.config, "model_type", "")))):
            notes.append(caution)
    return Plan(model, recipe, device, blocks, parts, limits, wanted, counts, tuple(notes))


def _more(recipe: StructuredRecipe, parts: list[BlockParts], *, heads: bool) -> list[str]:
    """What would let more go, beside a higher cap; ``heads``: whether they go."""
    more = []
    if recipe.layers == "cosine" and recipe.cosine.blocks < 1:
        more.append("raise cosine.blocks")
    if recipe.layers == "table":
        more.append("raise the ratios of the table")
    if not heads and any(each.attention.units > 1 for each in parts):
        # A configuration that has no word for fewer heads is no matter there.
        more.append("let heads go as well" + (", in mode: ragged" if recipe.mode == "uniform" else ""))
    return more


def _known_counts(
    recipe: StructuredRecipe,
    blocks: list[Block],
    parts: list[BlockParts],
    wanted: int | None,
    limits: Limits,
    can_stay: Callable[[int], bool],
) -> Counts | None:
    """How many units go from each part; None where that depends on cosines that are yet to be measured.

    ``can_stay``: whether a configuration can say that every block has so many KV groups.
    """
    if recipe.sizes is not None:
        return _sized(recipe.sizes, parts, limits)
    assert wanted is not None
    if recipe.mode == "uniform":
        multiple = MULTIPLE if recipe.multiple is None else recipe.multiple
        return divide_evenly(parts, wanted, limits, multiple, can_stay)
    if recipe.layers == "cosine":
        _refuse_beyond(recipe, parts, wanted, limits)
        return None
    shares = by_table(recipe.table, blocks) if recipe.layers == "table" else [Share(1.0)] * len(blocks)
    return divide(parts, shares, wanted, limits)


def refuse_few_tokens(plan: Plan, tokens: int) -> None:
    """An error if a regression of the repair has more unknowns than there are tokens."""
    kinds = [part for each in plan.parts for part in each if plan.limits.of(part)]
    if plan.recipe.repair == "none" or not kinds:
        return
    widest = max(kinds, key=lambda part: part.units * part.width)
    needed = widest.units * widest.width if plan.recipe.repair == "full" else FEWEST_TOKENS
    if tokens < needed:
        raise TrimPruneError(
            f"fewer calibration tokens than the regression of repair {plan.recipe.repair!r} needs",
            where=widest.where,
            expected=f"at least {needed} tokens"
            + (", one for each input of the output linear" if plan.recipe.repair == "full" else ""),
            got=f"{tokens} tokens",
            fix="more --samples or a longer --seqlen, or repair: affine",
        )


def _refuse_experts(blocks: list[Block]) -> None:
    for block in blocks:
        if any(linear.routed for linear in block.linears):
            raise TrimPruneError(
                "a block of experts, whose channels cannot be taken out",
                where=f"block {block.index}, {block.name} ({type(block.module).__name__})",
                expected="one feed-forward part that all tokens go through",
                fix="a recipe with a sparsity prunes the single weights of any linear",
            )


def _refuse_not_finite(parts: list[BlockParts]) -> None:
    for part in (part for each in parts for part in each):
        for name in (*(producer.name for producer in part.producers), part.consumer):
            if not all(torch.isfinite(parameter).all() for parameter in part.linear(name).parameters()):
                raise TrimPruneError("NaN or infinity in the weights of a linear", where=f"{part.where}, {name}")


def _one_group(attention: Part) -> TrimPruneError:
    return TrimPruneError(
        "heads cannot go: in every block all queries read one key and value head (multi-query attention), which is the "
        "smallest unit that can go",
        where=attention.where,
        expected="at least 2 KV groups in a block",
        got=f"1 in all, here with {attention.heads} query heads",
        fix="heads: none prunes channels only",
    )


def _refuse_unlike(parts: list[BlockParts]) -> None:
    for each in parts:
        sizes = [(part.units, part.width, part.heads) for part in each]
        if sizes != [(part.units, part.width, part.heads) for part in parts[0]]:
            raise TrimPruneError(
                "mode uniform: the blocks differ already",
                where=f"block {each.attention.block.index}",
                expected=", ".join(f"{part.units} {UNITS[part.kind]}" for part in parts[0]),
                got=", ".join(f"{part.units} {UNITS[part.kind]}" for part in each),
                fix="mode: ragged",
            )


def _refuse_unspeakable(model: nn.Module, parts: list[BlockParts], counts: Counts) -> None:
    """An error if the configuration cannot say these sizes of all blocks."""
    first = parts[0]
    kept = [part.units - counts[part] for part in first]
    why = problem(uniform_config(model.config, first, *kept), shapes_without(model, parts, counts))
    if why is not None:
        raise TrimPruneError(
            "mode uniform: the configuration of this model cannot say these sizes",
            where=type(model.config).__name__,
            got=", ".join(f"{count} {UNITS[part.kind]}" for part, count in zip(first, kept, strict=True)) + f": {why}",
            fix="other sizes, or mode: ragged",
        )


def _sized(sizes: Sizes, parts: list[BlockParts], limits: Limits) -> Counts:
    counts: Counts = {}
    for part in (part for each in parts for part in each):
        kept = sizes.kv_groups if part.heads else sizes.channels
        least = part.units if part.heads and not limits.head_share else 1
        if not least <= kept <= part.units:
            raise TrimPruneError(
                f"sizes: {kept} {UNITS[part.kind]} cannot stay",
                where=part.where,
                expected=f"{least} to {part.units}" if least < part.units else f"{part.units}: heads cannot go here",
            )
        counts[part] = part.units - kept
    return counts


def _refuse_beyond(recipe: StructuredRecipe, parts: list[BlockParts], wanted: int, limits: Limits) -> None:
    """An error if no choice of as many blocks as cosine layers take gives enough."""
    able = sorted((sum(limits.of(part) * part.unit_parameters for part in each) for each in parts), reverse=True)
    most = sum(able[: cosine_blocks(recipe, len(parts))])
    if wanted > most:
        raise out_of_reach(wanted, most, limits)


def cosine_blocks(recipe: StructuredRecipe, blocks: int) -> int:
    """How many of the blocks cosine layers may take from."""
    return max(1, round(recipe.cosine.blocks * blocks))


@torch.no_grad()
def _try_parts(model: nn.Module, blocks: list[Block], *, heads: bool) -> None:
    """An error unless a block without some units puts out what it does with them at zero; one block of each shape."""
    tried: set[tuple[object, ...]] = set()
    tokens = torch.arange(PROBE_TOKENS)[None]
    with evaluation_mode(model):
        captured = Capture(model, blocks, tokens)(tokens)
        for block in blocks:
            shape = tuple((name, parameter.shape) for name, parameter in block.module.named_parameters())
            if shape not in tried:
                tried.add(shape)
                _try_block(model, block, captured.calls[block.index], captured.hidden, heads=heads)


def _try_block(model: nn.Module, block: Block, call: Call, hidden: torch.Tensor, *, heads: bool) -> None:
    cpu = torch.device("cpu")
    call = call.to(cpu, torch.float64)
    hidden = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = []
    for masked in (True, False):
        copied = replace(block, module=copy.deepcopy(block.module).to(cpu, torch.float64))
        for part in find_parts(copied, model.config):
            if part.units > 1 and (heads or not part.heads):
                kept = torch.arange(1, part.units)
                weight = part.weight[:, indices(kept, part.width)].clone()
                keep_units(part, kept, weight, None, masked=masked)
        try:
            outputs.append(call.run(copied.module, hidden, cpu))
        except RuntimeError as error:
            raise _unlike(block, str(error).splitlines()[0]) from error
    if not bool((outputs[0] - outputs[1]).abs().max() <= TOLERANCE * outputs[0].abs().max()):
        raise _unlike(block, f"outputs that differ by {float((outputs[0] - outputs[1]).abs().max()):.3g}")


def _unlike(block: Block, got: str) -> TrimPruneError:
    return TrimPruneError(
        "a block whose heads and channels cannot be taken out",
        where=f"{block.name} ({type(block.module).__name__})",
        expected="the same output without a KV group and a channel as with both at zero",
        got=got,
        fix="a recipe with a sparsity prunes the single weights of any linear",
    )
