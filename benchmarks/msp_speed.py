"""How long MSP's search takes for a candidate, beside the plain way: masked weights copied in, the whole model run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import trim_kernels
from trim_prune import Recipe
from trim_prune.calibration.text import open_text
from trim_prune.calibration.tokens import Calibration, calibration_tokens
from trim_prune.dense import DenseModel
from trim_prune.events import Events
from trim_prune.models.capture import Capture
from trim_prune.models.discover import Linear, find_blocks
from trim_prune.msp.evolution import evolve
from trim_prune.msp.fitness import Fitness, held_out_stages, sequences_wanted
from trim_prune.msp.space import Levels, Space, first_population
from trim_prune.states import States
from trim_prune.timing import Timings

FIRST, GENERATIONS, COPIES = 8, 2, 1


@torch.no_grad()
def measure_candidates(loaded: Any, recipe: Recipe, text: list[str]) -> dict[str, Any]:
    """Seconds for a candidate in generations after the first, and for one in the plain way.

    ``search``: all stages together, of which most candidates see the first one only; ``copy``: the tokens of the last
    stage, as a judgement of the same worth takes. ``search_first`` and ``copy_first``: the tokens of the first stage.
    """
    assert recipe.pattern is not None
    assert recipe.seqlen is not None
    assert recipe.batch_size != "auto"
    options, of = recipe.msp, recipe.pattern.of
    held_out = calibration_tokens(
        loaded.tokenizer,
        open_text(text),
        samples=sequences_wanted(options.stages, recipe.seqlen),
        seqlen=recipe.seqlen,
        seed=recipe.seed,
    ).token_ids
    device, blocks = next(loaded.model.parameters()).device, find_blocks(loaded.model)
    capture = Capture(loaded.model, blocks, held_out)
    calibration = Calibration(held_out[:0], [], "", 0, held_out)
    dense = DenseModel(capture, States([], device), calibration, recipe.batch_size, device, Events(), Timings(), None)
    units = [block.linears for block in blocks]
    ranks = {linear: trim_kernels.nm_rank(linear.weight.contiguous(), of) for unit in units for linear in unit}
    costs = tuple(sum(linear.size for linear in unit) for unit in units)
    mean = round(of * (1 - recipe.sparsity))
    space = Space(costs, max(1, mean - options.reach), min(of, mean + options.reach), mean * sum(costs))
    stages = held_out_stages(dense, options.stages, options.fitness == "kl")
    fitness = Fitness(dense, units, ranks, stages)
    took: list[tuple[int, int, float]] = []

    def judge(candidates: Sequence[Levels], stage: int) -> Sequence[float]:
        start = time.perf_counter()
        losses = fitness(candidates, stage)
        took.append((len(candidates), stage, time.perf_counter() - start))
        return losses

    first = first_population(space, None, FIRST, options.reach, Random(recipe.seed), options.scale)
    limited = options.model_copy(update={"generations": GENERATIONS})
    found = evolve(space, first, [0.0] * len(units), judge, limited, recipe.seed, on_parents=fitness.retain)
    later = took[len(options.stages) :]
    begun = [(count, seconds) for count, stage, seconds in later if stage == 0]
    children = sum(count for count, _ in begun)
    by_copy = [
        _by_copy(loaded.model, units, ranks, [found.best.levels] * COPIES, ids, recipe.batch_size)
        for ids in (held_out, held_out[: sequences_wanted(options.stages[:1], recipe.seqlen)])
    ]
    return {
        "threads": torch.get_num_threads(),
        "stages": list(options.stages),
        "search": sum(seconds for *_, seconds in later) / children,
        "search_first": sum(seconds for _, seconds in begun) / children,
        "copy": by_copy[0],
        "copy_first": by_copy[1],
    }


def _by_copy(
    model: torch.nn.Module,
    units: Sequence[Sequence[Linear]],
    ranks: Mapping[Linear, Tensor],
    candidates: Sequence[Levels],
    token_ids: Tensor,
    batch_size: int,
) -> float:
    """Seconds for a candidate: its masked weights into every linear, then all of the model, against dense logits.

    The dense log-probabilities are there already, rounded to bfloat16, since of all tokens they take gigabytes.
    """
    linears = [(linear, index) for index, unit in enumerate(units) for linear in unit]
    dense = {linear: linear.weight.clone() for linear, _ in linears}
    batches = list(torch.split(token_ids, batch_size))
    known = [_log_probabilities(model, batch) for batch in batches]
    start = time.perf_counter()
    for levels in candidates:
        for linear, unit in linears:
            linear.weight.copy_(torch.where(ranks[linear] < levels[unit], dense[linear], 0))
        for batch, wanted in zip(batches, known, strict=True):
            found = _log_probabilities(model, batch)
            float(functional.kl_div(found, wanted, reduction="sum", log_target=True))
    seconds = time.perf_counter() - start
    for linear, weight in dense.items():
        linear.weight.copy_(weight)
    return seconds / len(candidates)


def _log_probabilities(model: torch.nn.Module, token_ids: Tensor) -> Tensor:
    there = token_ids.to(next(model.parameters()).device)
    logits: Tensor = model(input_ids=there, use_cache=False).logits[:, :-1]
    return logits.float().log_softmax(-1).bfloat16()
