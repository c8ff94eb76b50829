"""The walk over the blocks: collect, decide, apply, propagate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from trim_kernels.precision import full_float32

from .activations import keeper
from .budget import Budget
from .budgets.layers import LAYER_BUDGETS, LayerRequest, exact_counts, pattern_keeps
from .budgets.rows import ROW_BUDGETS
from .budgets.rows.optimal import refuse_unmatched
from .calibration.joining import join
from .calibration.statistics import Collector, LinearStatistics, Need
from .calibration.tokens import Calibration
from .dense import DenseModel
from .errors import TrimPruneError, WeightsElsewhereError
from .events import Events
from .fallbacks import counted, refuse_fallback
from .models.capture import PROBE_TOKENS, Call, Capture, Captured, refuse_not_finite
from .models.coverage import coverage_warnings, require_coverage
from .models.device import choose_device, evaluation_mode, on_device, rest_on_device
from .models.discover import Block, Linear, Store, find_blocks
from .output_gradients import output_gradients
from .pattern import Keep
from .permutation import Folds, Move, Reordered, find_folds, reorder
from .prune_linears import prune_linears
from .recipe import Recipe
from .results import LinearResult, Sparsity
from .runs.entries import budget_of, entry_of
from .runs.resume import resumed
from .runs.shared import SharedRun
from .scores import SCORES, ScoreRequest
from .states import PairedStates, States
from .team import ALONE, Team
from .timing import Timings


@dataclass(frozen=True)
class Plan:
    """What will be pruned.

    ``capture``: takes the inputs of the blocks, if anything is measured on text. ``folds``: which linears may have
    their columns reordered; None unless the recipe permutes. ``budgets``: what each linear loses, exactly; None until
    the layer budget has divided the target. ``output_gradients``: of the linears, if the row budget needs them.
    ``team``: the processes that prune the model together.
    """

    model: nn.Module
    recipe: Recipe
    device: torch.device
    blocks: list[Block]
    capture: Capture | None = None
    folds: Folds | None = None
    budgets: dict[Linear, Budget] | None = None
    output_gradients: Mapping[Linear, Tensor] = field(default_factory=dict)
    team: Team = ALONE

    @property
    def batch_size(self) -> int:
        """Sequences at once; one where the recipe says auto and nobody has found a number."""
        size = self.recipe.batch_size
        return 1 if size == "auto" else size

    @property
    def linears(self) -> list[Linear]:
        """All linears, block by block."""
        return [linear for block in self.blocks for linear in block.linears]


def outline(model: nn.Module, recipe: Recipe, store: Store | None = None) -> Plan:
    """Find the blocks, whose weights are in that store or in memory, and refuse what shapes do not allow."""
    blocks = find_blocks(model, store)
    linears = [linear for block in blocks for linear in block.linears]
    require_coverage(blocks, recipe.allow_uncovered)
    _refuse_out_of_reach(linears, recipe)
    _refuse_narrow(linears, recipe)
    refuse_unmatched((linear.name for linear in linears), recipe)
    plan = Plan(model, recipe, choose_device(recipe.device), blocks)
    if recipe.layers == "table":
        # For what is wrong with its rules, before a large output is laid out.
        divide(plan, {}, None)
    return plan


def make_plan(model: nn.Module, recipe: Recipe, store: Store | None = None, team: Team = ALONE) -> Plan:
    """As :func:`outline`, having looked at the weights: refuses all that cannot be done."""
    plan = replace(outline(model, recipe, store), team=team)
    # All of them before any work: a walk that stops at one leaves a model half pruned.
    if recipe.needs_text:
        with torch.no_grad(), evaluation_mode(model):
            probe = torch.arange(PROBE_TOKENS)[None]
            plan = replace(plan, capture=Capture(model, plan.blocks, probe, _refuse_not_finite))
    else:
        for block in plan.blocks:
            with on_device(block):
                _refuse_not_finite(block)
    if recipe.permute and recipe.pattern is not None:
        return replace(plan, folds=find_folds(model, plan.blocks, recipe.pattern))
    return plan


def _divided(
    plan: Plan, timings: Timings, statistics: Mapping[Linear, LinearStatistics], dense: DenseModel | None = None
) -> Plan:
    """The plan with what each linear loses, as the layer budget divides the target."""
    together = LAYER_BUDGETS.get(plan.recipe.layers).together

    def entries() -> list[list[int]]:
        return list(map(entry_of, divide(plan, statistics, dense).values()))

    with timings.phase("plan"):
        found = plan.team.exchange(entries())[0] if together else plan.team.lead(entries)
    return replace(plan, budgets=dict(zip(plan.linears, map(budget_of, found), strict=True)))


def _divided_by_text(
    plan: Plan,
    states: States,
    capture: Capture,
    calibration: Calibration,
    events: Events,
    timings: Timings,
    run: SharedRun | None,
) -> Plan:
    """As :func:`_divided`, by a layer budget that sees the dense model at work."""
    budget, team = LAYER_BUDGETS.get(plan.recipe.layers), plan.team
    needs = budget.needs - {"output_gradient"}
    statistics = _measure_dense(plan, needs, states, timings) if needs else {}
    batch_size = plan.batch_size
    seen = states.twin()
    if team.size > 1 and team.first and budget.held_out is not None and not budget.together:
        # It runs the model on this rank alone, and so on all sequences.
        _, seen = _capture(replace(plan, team=ALONE), calibration, events, timings, None if run is None else run.folder)
        seen = seen.twin()
    dense = DenseModel(
        capture,
        seen,
        calibration,
        batch_size,
        plan.device,
        events,
        timings,
        None if run is None else run.model,
        plan.output_gradients,
        team,
    )
    return _divided(plan, timings, statistics, dense)


def divide(plan: Plan, statistics: Mapping[Linear, LinearStatistics], dense: DenseModel | None) -> dict[Linear, Budget]:
    """What each linear loses, as the layer budget divides the target.

    Raises:
        WeightsElsewhereError: it reads weights that are not in memory.
        TrimPruneError: it cannot.
    """
    linears, recipe = plan.linears, plan.recipe
    sizes, limits = [linear.size for linear in linears], _limits(linears, recipe)
    total = round(recipe.sparsity * sum(sizes))
    request = LayerRequest(
        linears, recipe.sparsity, total, limits, statistics, recipe, dense, lambda index: on_device(plan.blocks[index])
    )
    try:
        sparsities = LAYER_BUDGETS.get(recipe.layers).function(request)
        if recipe.pattern is not None:
            keeps = pattern_keeps(sparsities, linears, recipe.pattern.of, total)
            budgets = [_pattern_budget(linear, keep) for linear, keep in zip(linears, keeps, strict=True)]
        else:
            budgets = [Budget(count) for count in exact_counts(sparsities, sizes, limits, total)]
    except ValueError as error:
        raise TrimPruneError(f"layer budget {recipe.layers!r}: {error}") from error
    except RuntimeError as error:
        # What torch says of tensors without memory.
        if "meta" not in str(error):
            raise
        raise WeightsElsewhereError(
            f"layer budget {recipe.layers!r} reads weights that are on the disk",
            got=str(error).splitlines()[0],
            fix="read those of a block inside: with request.on_device(block)",
        ) from error
    return dict(zip(linears, budgets, strict=True))


def _pattern_budget(linear: Linear, keep: Keep) -> Budget:
    rows, columns = linear.shape
    return Budget(rows * (columns - keep.of_row(columns)), keep)


def _limits(linears: Sequence[Linear], recipe: Recipe) -> list[int]:
    """The most weights that the row budget takes from each linear."""
    row_limit = ROW_BUDGETS.get(recipe.rows).row_limit
    shapes = [linear.shape for linear in linears]
    return [rows * row_limit(columns, recipe) for rows, columns in shapes]


def _refuse_out_of_reach(linears: Sequence[Linear], recipe: Recipe) -> None:
    weights, most = sum(linear.size for linear in linears), sum(_limits(linears, recipe))
    wanted = round(recipe.sparsity * weights)
    if wanted > most:
        raise TrimPruneError(
            f"the sparsity is out of reach of row budget {recipe.rows!r}",
            expected=f"at most {most} of {weights} weights ({most / weights:.4f})",
            got=f"{wanted} ({wanted / weights:.4f})",
            fix="lower the sparsity, raise trim.max_sparsity, or use rows: uniform",
        )


def _refuse_narrow(linears: Sequence[Linear], recipe: Recipe) -> None:
    for linear in linears:
        columns = linear.shape[1]
        if recipe.pattern is not None and columns < recipe.pattern.of:
            raise TrimPruneError(
                "a linear is narrower than a group of the pattern",
                where=f"block {linear.block}, {linear.name}",
                expected=f"at least {recipe.pattern.of} columns",
                got=str(columns),
                fix="choose smaller groups",
            )


def _refuse_not_finite(block: Block) -> None:
    for linear in block.linears:
        if not torch.isfinite(linear.weight).all():
            raise TrimPruneError(
                "NaN or infinity in the weights of a linear", where=f"block {linear.block}, {linear.name}"
            )


@torch.no_grad()
def walk(
    plan: Plan, calibration: Calibration | None, events: Events, timings: Timings, run: SharedRun | None = None
) -> tuple[list[LinearResult], dict[str, Tensor], list[Move]]:
    """Prune the model in place, block by block; each block sees the outputs of the pruned ones before it.

    ``calibration``: None if nothing needs any. ``run``: what takes every block when it is finished, and has those that
    an earlier process finished; None: the blocks are in memory, and stay there. Returns the results per linear and,
    without ``run``, the packed masks per weight name, and which parameters were reordered before.
    """
    results: list[LinearResult] = []
    masks: dict[str, Tensor] = {}
    moves: list[Move] = []
    for message in coverage_warnings(plan.model, plan.blocks, plan.recipe):
        events.warn(message)
    _warn_of_refused(plan, events)
    _warn_of_tails(plan, events)
    budget = LAYER_BUDGETS.get(plan.recipe.layers)
    if run is not None:
        plan = replace(plan, budgets=run.budgets(plan.linears))
    if plan.budgets is None and not budget.needs_text:
        plan = _divided(plan, timings, {})
    with evaluation_mode(plan.model):
        capture, states = _capture(plan, calibration, events, timings, None if run is None else run.folder)
        if plan.recipe.gradient_sequences:
            assert capture is not None
            assert calibration is not None
            found = _output_gradients(plan, capture, calibration, events, timings, run)
            plan = replace(plan, output_gradients=found)
        if plan.budgets is None:
            assert capture is not None
            assert calibration is not None
            # In a call of its own: what the dense model's states take is free again before anything is pruned.
            plan = _divided_by_text(plan, states, capture, calibration, events, timings, run)
        assert plan.budgets is not None
        _warn_of_whole_patterns(plan, plan.budgets, events)
        _warn_of_emptied(plan, plan.budgets, events)
        if run is not None:
            run.keep_budgets(plan.budgets)
            results += resumed(run, plan.blocks, states, plan.device, events, timings)
        events.emit("plan", linears=_plan_facts(plan))
        entering = run.digest(states) if run is not None else ""
        for block in plan.blocks[0 if run is None else len(run.done) :]:
            events.emit("block_start", block=block.index, blocks=len(plan.blocks), name=block.name)
            start = time.perf_counter()
            own: dict[str, Tensor] = {}
            with on_device(block, plan.device):
                reordered, fallen = _permute(plan, block, states, timings)
                moved = [move for found in reordered.values() for move in found.moves]
                done = _prune_block(plan, block, states, own, timings)
                done = [
                    replace(
                        result,
                        permuted=_shares(reordered.get(result.name)),
                        steps=tuple(dict.fromkeys((*fallen.get(result.name, ()), *result.steps))),
                    )
                    for result in done
                ]
                if run is not None:
                    run.round(block)
                if block is not plan.blocks[-1]:
                    with timings.phase("forward"):
                        states.propagate(block)
                        for hidden in states.hidden:
                            refuse_not_finite(hidden, block.index + 1)
                if run is not None:
                    with timings.phase("write"):
                        leaving = run.digest(states)
                        run.add(block, done, own, moved, states, (entering, leaving), timings.seconds)
                        entering = leaving
            if run is None:
                masks |= own
                moves += moved
            for result in done:
                events.emit("linear", **_facts(result))
            events.emit("block", **_block_facts(plan, block, done, time.perf_counter() - start))
            results += done
    _warn_of_steps(results, events)
    _warn_of_few_tokens(plan, results, events)
    return results, masks, moves


def _warn_of_refused(plan: Plan, events: Events) -> None:
    if plan.folds is not None and plan.folds.refused:
        events.warn(
            "linears keep the order of their columns that might have had another: "
            + ", ".join(f"{reason} ({count})" for reason, count in plan.folds.refused.items())
        )


def _warn_of_tails(plan: Plan, events: Events) -> None:
    if plan.recipe.pattern is None:
        return
    of = plan.recipe.pattern.of
    widths = Counter(linear.shape[1] for linear in plan.linears if linear.shape[1] % of)
    if widths:
        tails = [f"{width % of} left of {width} ({count} linears)" for width, count in widths.items()]
        events.warn(
            f"groups of {of} do not divide the columns of some linears, whose last, shorter group keeps its share, "
            f"rounded up: {', '.join(tails)}"
        )


def _warn_of_whole_patterns(plan: Plan, budgets: Mapping[Linear, Budget], events: Events) -> None:
    if plan.recipe.pattern is None:
        return
    of, weights, goes = plan.recipe.pattern.of, sum(linear.size for linear in budgets), 0
    for linear, budget in budgets.items():
        assert budget.pattern is not None
        # As if groups divided all columns: shorter ones are told of beside.
        goes += linear.size * (of - budget.pattern.keep)
    if 2 * abs(goes - of * round(plan.recipe.sparsity * weights)) > of:
        events.warn(
            f"asked for sparsity {plan.recipe.sparsity:g}; with groups of {of}, layers {plan.recipe.layers!r} come no "
            f"nearer within that budget than {goes / (of * weights):.6g}; without a pattern it is met to the weight"
        )


def _warn_of_emptied(plan: Plan, budgets: Mapping[Linear, Budget], events: Events) -> None:
    emptied = [linear.name for linear, budget in budgets.items() if budget.prune_count == linear.size]
    if emptied and plan.recipe.sparsity < 1:
        events.warn(
            f"{len(emptied)} of {len(budgets)} linears lose all their weights, as layers {plan.recipe.layers!r} divide "
            f"the sparsity: {emptied[0]}{', ...' if len(emptied) > 1 else ''}"
        )


def _warn_of_steps(results: Sequence[LinearResult], events: Events) -> None:
    fallen = [result.steps for result in results if result.steps]
    if fallen:
        events.warn(f"{counted(fallen, len(results))}; run.json names them")


def _warn_of_few_tokens(plan: Plan, results: Sequence[LinearResult], events: Events) -> None:
    """Statistics of fewer vectors than columns are poor; said of experts, as the calibration text seems to suffice."""
    routed = {linear.name for linear in plan.linears if linear.routed}
    seen = [(result.tokens, result) for result in results if result.name in routed and result.tokens is not None]
    few = sorted(((tokens, result.name) for tokens, result in seen if tokens < result.shape[1]))
    if few:
        none, (least, name) = sum(tokens == 0 for tokens, _ in few), few[0]
        events.warn(
            f"{len(few)} of {len(seen)} linears of experts saw fewer calibration tokens than they have columns, {none} "
            f"of them none (least: {least}, {name}); run.json has the tokens of each, more text reaches more experts"
        )


def sparsity_figures(plan: Plan, results: Sequence[LinearResult]) -> Sparsity:
    """The three usual figures, from exact counts."""
    embeddings = {id(m.weight) for m in plan.model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(plan.model, "get_output_embeddings", lambda: None)()
    if head is not None:
        embeddings |= {id(parameter) for parameter in head.parameters()}
    parameters = list(plan.model.parameters())
    return Sparsity(
        pruned=sum(result.prune_count for result in results),
        prunable_weights=sum(linear.size for linear in plan.linears),
        non_embedding_parameters=sum(p.numel() for p in parameters if id(p) not in embeddings),
        all_parameters=sum(p.numel() for p in parameters),
    )


def _capture(
    plan: Plan, calibration: Calibration | None, events: Events, timings: Timings, folder: Path | None
) -> tuple[Capture | None, States]:
    captured: list[Captured] = []
    capture = keep = recall = groups = None
    paired = "drift" in plan.recipe.needs
    if calibration is not None:
        # Experts see some tokens of each sequence: their sums do not depend on the batches if each is one sequence.
        capture = plan.capture
        assert capture is not None
        size = 1 if any(linear.routed for linear in plan.linears) else plan.batch_size
        mine = plan.team.groups(len(calibration.token_ids))
        groups = [group for group, sequences in mine for _ in sequences]
        own = calibration.token_ids[[sequence for _, sequences in mine for sequence in sequences]]
        # A batch has sequences of one group: the last bit of a product may depend on how many rows it has.
        batches = [batch for _, s in mine for batch in torch.split(calibration.token_ids[s.start : s.stop], size)]
        with timings.phase("capture"):
            for number, batch in enumerate(batches, start=1):
                found = capture(batch, captured[-1] if captured else None)
                if keep is None:
                    each = found.hidden[0].numel() * found.hidden.element_size() * (2 if paired else 1)
                    home = found.hidden.device
                    keep = keeper(each * len(own), plan.device, home, folder, plan.team.on_machine)
                captured.append(replace(found, hidden=keep(found.hidden)))
                events.emit("calibration", batch=number, batches=len(batches))
        recall = partial(_recalled, capture, own, events)
    return capture, (PairedStates if paired else States)(captured, plan.device, keep, recall, groups)


def _recalled(capture: Capture, token_ids: Tensor, events: Events, sizes: Sequence[int]) -> list[tuple[Call, ...]]:
    """The calls of smaller batches, as the device has no memory for those that were asked for."""
    events.warn(f"the device has too little memory for the batches: from here on {max(sizes)} sequences at most")
    found: list[Captured] = []
    for batch in torch.split(token_ids, list(sizes)):
        found.append(capture(batch, found[-1] if found else None))
        # Only what a block gets beside hidden states is wanted.
        found[-1] = replace(found[-1], hidden=found[-1].hidden[:0].clone())
    return [batch.calls for batch in found]


def _output_gradients(
    plan: Plan, capture: Capture, calibration: Calibration, events: Events, timings: Timings, run: SharedRun | None
) -> dict[Linear, Tensor]:
    """Those of the dense model."""
    if run is not None and (known := run.gradients(plan.linears)) is not None:
        return known
    token_ids = calibration.token_ids[: plan.recipe.gradient_sequences]
    mine = sum(len(sequences) for _, sequences in plan.team.groups(len(token_ids)))

    def note(number: int) -> None:
        events.emit("gradients", sequence=number, sequences=mine)

    with timings.phase("gradients"), rest_on_device(plan.model, plan.blocks, plan.device):
        found = output_gradients(capture, token_ids, plan.device, on_sequence=note, team=plan.team)
    if run is not None:
        run.keep_gradients(found)
    return found


def _measure_dense(
    plan: Plan, needs: frozenset[Need], states: States, timings: Timings
) -> dict[Linear, LinearStatistics]:
    """What the layer budget needs to know of every linear, before anything is pruned."""
    walked = states.twin()
    found: dict[Linear, LinearStatistics] = {}
    for block in plan.blocks:
        collector = _collector(plan, block.linears, needs, timings)
        with on_device(block, plan.device), timings.phase("forward"):
            walked.propagate(block, collector)
            join(collector, plan.team)
        found |= {linear: collector.statistics(linear) for linear in block.linears}
    return found


def _permute(
    plan: Plan, block: Block, states: States, timings: Timings
) -> tuple[dict[str, Reordered], dict[str, tuple[str, ...]]]:
    """Reorder columns of the block's linears by the scores that they have now; what came of it, by name.

    Beside it the fallbacks that these scores needed.
    """
    if plan.folds is None:
        return {}, {}
    assert plan.budgets is not None
    recipe, score = plan.recipe, SCORES.get(plan.recipe.score)
    folds = {linear: fold for linear in block.linears if (fold := plan.folds.of.get(linear)) is not None}
    collector = _collector(plan, list(folds), score.needs, timings)
    if score.needs and folds:
        with timings.phase("forward"):
            states.twin().collect(block, collector)
            join(collector, plan.team)
    found: dict[str, Reordered] = {}
    fallen: dict[str, tuple[str, ...]] = {}
    for linear, fold in folds.items():
        weight, keep = linear.weight, plan.budgets[linear].pattern
        statistics = collector.statistics(linear) if score.needs else LinearStatistics()
        assert keep is not None
        try:
            with timings.phase("permute"), full_float32(plan.device):
                importance = score.function(ScoreRequest(weight, statistics, recipe))
                if (reordered := reorder(block, fold, weight, importance, keep)) is not None:
                    found[linear.name] = reordered
        except ValueError as error:
            raise TrimPruneError(str(error), where=f"block {linear.block}, {linear.name}") from error
        fallen[linear.name] = statistics.steps
        refuse_fallback(recipe, linear, statistics.steps)
    return found, fallen


def _shares(reordered: Reordered | None) -> tuple[float, float] | None:
    return None if reordered is None else (reordered.before, reordered.after)


def _prune_block(
    plan: Plan, block: Block, states: States, masks: dict[str, Tensor], timings: Timings
) -> list[LinearResult]:
    if not states.hidden:
        return prune_linears(plan, block.linears, lambda _: LinearStatistics(), masks, timings)
    collector = _collect(plan, block, block.linears, states, timings)
    groups = collector.groups()
    met = {linear for group in groups for linear in group}
    left = [linear for linear in block.linears if linear not in met]
    if not plan.recipe.recapture:
        groups = [[linear for group in groups for linear in group]]
    results = []
    for number, group in enumerate(groups):
        measured = _collect(plan, block, group, states, timings) if number else collector
        with full_float32(plan.device):
            results += prune_linears(plan, group, measured.statistics, masks, timings)
    with full_float32(plan.device):
        return results + prune_linears(plan, left, collector.statistics, masks, timings)


def _collect(plan: Plan, block: Block, linears: Sequence[Linear], states: States, timings: Timings) -> Collector:
    collector = _collector(plan, linears, plan.recipe.needs, timings)
    with timings.phase("forward"):
        states.collect(block, collector)
        join(collector, plan.team)
    return collector


def _collector(plan: Plan, linears: Sequence[Linear], needs: frozenset[Need], timings: Timings) -> Collector:
    return Collector(linears, needs, plan.recipe.tokens_per_sequence, lambda: timings.phase("statistics"))


def _plan_facts(plan: Plan) -> list[dict[str, object]]:
    assert plan.budgets is not None
    return [
        {
            "name": linear.name,
            "block": linear.block,
            "shape": list(linear.shape),
            "prune_count": budget.prune_count,
            "pattern": None if budget.pattern is None else str(budget.pattern),
        }
        for linear, budget in plan.budgets.items()
    ]


def _facts(result: LinearResult) -> dict[str, object]:
    facts = {key: value for key, value in vars(result).items() if value is not None}
    return facts | {"shape": list(result.shape), "sparsity": result.sparsity}


def _block_facts(plan: Plan, block: Block, done: Sequence[LinearResult], seconds: float) -> dict[str, object]:
    """The block's qualities are the means over its linears."""
    before = [result.baseline_quality for result in done if result.baseline_quality is not None]
    after = [result.quality for result in done if result.quality is not None]
    return {
        "block": block.index,
        "blocks": len(plan.blocks),
        "seconds": seconds,
        "baseline_quality": fmean(before) if before else None,
        "quality": fmean(after) if after else None,
    }
