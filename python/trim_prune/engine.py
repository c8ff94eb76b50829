"""The walk over the blocks: collect, decide, apply, propagate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from .budgets.layers import LAYER_BUDGETS, apportion
from .budgets.rows import ROW_BUDGETS, RowRequest
from .calibration.statistics import Collector, LinearStatistics
from .errors import TrimPruneError
from .events import Events
from .models.capture import Call, Capture
from .models.device import choose_device, evaluation_mode
from .models.discover import Block, Linear, find_blocks
from .recipe import Recipe
from .results import LinearResult, Sparsity
from .scores import SCORES
from .solvers import SOLVERS
from .timing import Timings

MIN_COVERAGE = 0.99


@dataclass(frozen=True)
class Plan:
    """What will be pruned, decided before any work: the exact prune count of each linear."""

    model: nn.Module
    recipe: Recipe
    device: torch.device
    blocks: list[Block]
    counts: dict[Linear, int]

    @property
    def linears(self) -> list[Linear]:
        """All linears, block by block."""
        return [linear for block in self.blocks for linear in block.linears]


def make_plan(model: nn.Module, recipe: Recipe) -> Plan:
    """Find the blocks, fix the layer budget, and refuse what cannot be done."""
    blocks = find_blocks(model)
    linears = [linear for block in blocks for linear in block.linears]
    sizes = [linear.size for linear in linears]
    sparsities = LAYER_BUDGETS.get(recipe.layers).function(linears, recipe.sparsity)
    try:
        counts = apportion(sparsities, sizes, round(recipe.sparsity * sum(sizes)))
    except ValueError as error:
        raise TrimPruneError(f"layer budget {recipe.layers!r} misses the target: {error}") from error
    row_limit = ROW_BUDGETS.get(recipe.rows).row_limit
    for linear, count in zip(linears, counts, strict=True):
        rows, columns = linear.module.weight.shape
        limit = rows * row_limit(columns, recipe)
        if count > limit:
            raise TrimPruneError(
                f"the sparsity is out of reach of row budget {recipe.rows!r}",
                where=f"block {linear.block}, {linear.name} [{rows}, {columns}]",
                expected=f"at most {limit} of {linear.size} weights ({limit / linear.size:.4f})",
                got=f"{count} ({count / linear.size:.4f})",
                fix="lower the sparsity, raise trim.max_sparsity, or use rows: uniform",
            )
    _refuse_not_finite(linears)
    return Plan(model, recipe, choose_device(recipe.device), blocks, dict(zip(linears, counts, strict=True)))


def _refuse_not_finite(linears: Sequence[Linear]) -> None:
    # All of them before any work: a walk that stops at one leaves a model half pruned.
    for linear in linears:
        if not torch.isfinite(linear.module.weight).all():
            raise TrimPruneError(
                "NaN or infinity in the weights of a linear", where=f"block {linear.block}, {linear.name}"
            )


@torch.no_grad()
def walk(
    plan: Plan, batches: Sequence[Tensor], events: Events, timings: Timings
) -> tuple[list[LinearResult], dict[str, Tensor]]:
    """Prune the model in place, block by block; each block sees the outputs of the pruned ones before it.

    ``batches``: token ids [sequences, tokens]; empty if nothing needs calibration. Returns the results per linear
    and the packed masks per weight name.
    """
    results: list[LinearResult] = []
    masks: dict[str, Tensor] = {}
    _warn_of_coverage(plan.blocks, events)
    with evaluation_mode(plan.model):
        states = _capture(plan, batches, events, timings)
        for block in plan.blocks:
            start = time.perf_counter()
            with _on_device(block.module, plan.device):
                done = _prune_block(plan, block, states, masks, timings)
                if block is not plan.blocks[-1]:
                    with timings.phase("forward"):
                        states.propagate(block)
            for result in done:
                events.emit("linear", **_facts(result))
            events.emit("block", **_block_facts(plan, block, done, time.perf_counter() - start))
            results += done
    return results, masks


def _warn_of_coverage(blocks: Sequence[Block], events: Events) -> None:
    least = min(blocks, key=lambda block: block.coverage)
    count = sum(block.coverage < MIN_COVERAGE for block in blocks)
    if count:
        events.warn(
            f"{count} of {len(blocks)} blocks hold parameters outside nn.Linear, which are not pruned: "
            f"in {least.name} only {least.coverage:.1%} lie in nn.Linear"
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


class _States:
    """The hidden states of all calibration batches, at the block the walk has reached."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.hidden: list[Tensor] = []
        self.calls: list[tuple[Call, ...]] = []

    def collect(self, block: Block, collector: Collector) -> None:
        """Run a block on every batch for the sake of its hooks."""
        for index, hidden in enumerate(self.hidden):
            with collector.batch(hidden.shape[0], hidden.shape[1]):
                self._run(block, index)

    def propagate(self, block: Block) -> None:
        """Replace the hidden states by the block's output."""
        for index, hidden in enumerate(self.hidden):
            self.hidden[index] = self._run(block, index).to(hidden.device)

    def _run(self, block: Block, index: int) -> Tensor:
        return self.calls[index][block.index].run(block, self.hidden[index].to(self.device), self.device)


def _capture(plan: Plan, batches: Sequence[Tensor], events: Events, timings: Timings) -> _States:
    states = _States(plan.device)
    if not batches:
        return states
    with timings.phase("capture"):
        capture = Capture(plan.model, plan.blocks, batches[0])
        captured = None
        for number, batch in enumerate(batches, start=1):
            captured = capture(batch, captured)
            states.hidden.append(captured.hidden)
            states.calls.append(captured.calls)
            events.emit("calibration", batch=number, batches=len(batches))
    return states


def _prune_block(
    plan: Plan, block: Block, states: _States, masks: dict[str, Tensor], timings: Timings
) -> list[LinearResult]:
    if not states.hidden:
        return [_prune_linear(plan, linear, LinearStatistics(), masks, timings) for linear in block.linears]
    collector = _collect(plan, block, block.linears, states, timings)
    results = []
    for number, group in enumerate(collector.groups()):
        if plan.recipe.recapture and number > 0:
            collector = _collect(plan, block, group, states, timings)
        results += [_prune_linear(plan, linear, collector.statistics(linear), masks, timings) for linear in group]
    missing = [linear for linear in block.linears if linear.weight_name not in masks]
    for linear in missing:
        collector.statistics(linear)
    return results


def _collect(plan: Plan, block: Block, linears: Sequence[Linear], states: _States, timings: Timings) -> Collector:
    collector = Collector(
        linears, plan.recipe.needs, plan.recipe.tokens_per_sequence, lambda: timings.phase("statistics")
    )
    with timings.phase("forward"):
        states.collect(block, collector)
    return collector


def _prune_linear(
    plan: Plan, linear: Linear, statistics: LinearStatistics, masks: dict[str, Tensor], timings: Timings
) -> LinearResult:
    recipe, weight, count = plan.recipe, linear.module.weight.data, plan.counts[linear]
    start = time.perf_counter()
    try:
        with timings.phase("search"):
            importance = SCORES.get(recipe.score).function(weight, statistics)
            decision = ROW_BUDGETS.get(recipe.rows).function(RowRequest(weight, importance, statistics, count, recipe))
            # A budget may have counted on the CPU.
            prune_count = decision.prune_count.to(weight.device)
            pruned = int(prune_count.sum())
            if pruned != count and not decision.rounded:
                raise ValueError(f"row budget {recipe.rows!r} prunes {pruned} weights in place of the asked {count}")
        with timings.phase("apply"):
            kept = SOLVERS.get(recipe.solver).function(weight, prune_count, importance, statistics)
            zeros = weight.numel() - int(torch.count_nonzero(weight))
    except ValueError as error:
        raise TrimPruneError(str(error), where=f"block {linear.block}, {linear.name}") from error
    masks[linear.weight_name] = kept.cpu()
    return LinearResult(
        name=linear.name,
        block=linear.block,
        shape=(weight.shape[0], weight.shape[1]),
        prune_count=pruned,
        row_min=int(prune_count.min()),
        row_max=int(prune_count.max()),
        kept_zeros=zeros - pruned,
        quality=decision.quality,
        baseline_quality=decision.baseline_quality,
        learning_rate=decision.learning_rate,
        iteration=decision.iteration,
        seconds=time.perf_counter() - start,
    )


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


@contextmanager
def _on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    home = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(home)
