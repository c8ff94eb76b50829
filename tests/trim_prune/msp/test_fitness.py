from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch.nn import functional

import trim_prune.msp.fitness
from trim_prune.calibration.tokens import Calibration
from trim_prune.dense import DenseModel
from trim_prune.events import Events
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.msp.fitness import Fitness, held_out_stages, sequences_wanted
from trim_prune.states import States
from trim_prune.timing import Timings

SEQLEN, STAGES = 12, (12, 36)
TOKENS = random_tokens(3, SEQLEN)
CPU = torch.device("cpu")
LEVELS = [(1, 3), (2, 2), (3, 1), (2, 3), (2, 1)]


def dense_model(model, batch_size=2):
    with torch.no_grad():
        capture = Capture(model, find_blocks(model), TOKENS)
    calibration = Calibration(TOKENS[:0], [], "text", 0, TOKENS)
    return DenseModel(capture, States([], CPU), calibration, batch_size, CPU, Events(), Timings(), None)


def random_ranks(model):
    generator = torch.Generator().manual_seed(3)
    return {
        linear: torch.randint(0, 4, linear.module.weight.shape, generator=generator, dtype=torch.uint8)
        for block in find_blocks(model)
        for linear in block.linears
    }


def fitness_of(model, *, kl=True, batch_size=2):
    dense = dense_model(model, batch_size)
    ranks = {}
    for linear, rank in zip(
        [linear for block in dense.blocks for linear in block.linears], random_ranks(model).values(), strict=True
    ):
        ranks[linear] = rank
    return Fitness(dense, [block.linears for block in dense.blocks], ranks, held_out_stages(dense, STAGES, kl))


def by_copy(model, levels, sequences, *, kl):
    """The loss of a masked copy of the whole model, run from its first layer to its last."""
    masked = copy.deepcopy(model)
    for linear, rank in random_ranks(masked).items():
        linear.module.weight.data[rank >= levels[linear.block]] = 0
    with torch.no_grad():
        found, wanted = (m(input_ids=TOKENS[:sequences]).logits[:, :-1].double() for m in (masked, model))
    found = found.log_softmax(-1).flatten(0, 1)
    if kl:
        goal = wanted.log_softmax(-1).flatten(0, 1)
        return float((goal.exp() * (goal - found)).sum(-1).mean())
    return float(functional.nll_loss(found, TOKENS[:sequences, 1:].flatten()))


@torch.no_grad()
@pytest.mark.parametrize("kl", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_losses_are_those_of_a_masked_copy_of_the_model(family, kl, batch_size):
    model = make_model(family)
    fitness = fitness_of(model, kl=kl, batch_size=batch_size)
    assert fitness(LEVELS, 0) == pytest.approx([by_copy(model, levels, 1, kl=kl) for levels in LEVELS], rel=1e-4)
    assert fitness(LEVELS[1:3], 1) == pytest.approx(
        [by_copy(model, levels, 3, kl=kl) for levels in LEVELS[1:3]], rel=1e-4
    )


@torch.no_grad()
def test_the_weights_are_afterwards_as_they_were():
    model = make_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fitness = fitness_of(model)
    fitness(LEVELS, 0)
    fitness.dense.blocks[1].module.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitness([(3, 2)], 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_common_beginnings_run_once_also_in_later_calls():
    model = make_model("llama")
    fitness = fitness_of(model)
    fitness(LEVELS, 0)
    first = {levels[0] for levels in LEVELS}
    assert fitness.block_runs == len(first) + len(LEVELS)
    fitness.retain([(2, 2)])
    fitness([(2, 4), (3, 4)], 0)
    assert fitness.block_runs == len(first) + len(LEVELS) + 1 + 2
    fitness([(2, 4)], 0)
    assert fitness.block_runs == len(first) + len(LEVELS) + 3


@torch.no_grad()
@pytest.mark.parametrize("limit", [1, 10_000, 1 << 30])
def test_what_is_kept_changes_no_loss(monkeypatch, limit):
    model = make_model("llama", num_hidden_layers=5)
    candidates = [(1, 2, 3, 2, 1), (1, 2, 3, 1, 1), (1, 1, 1, 1, 1), (1, 2, 1, 2, 3)]
    alone = [fitness_of(model)([levels], 0)[0] for levels in candidates]
    monkeypatch.setattr(trim_prune.msp.fitness, "CACHE_BYTES", limit)
    fitness = fitness_of(model)
    found = fitness(candidates[:2], 0)
    fitness.retain(candidates[:1])
    assert [*found, *fitness(candidates[2:], 0)] == alone
    kept = Counter(len(path) for path in fitness._kept[0])
    assert max(kept, default=0) < 5
    assert (len(kept) < 4) == (limit < 1 << 30)
    assert fitness._kept_bytes() <= limit


@torch.no_grad()
def test_what_is_thinned_out_during_a_call_still_serves_it(monkeypatch):
    model = make_model("llama", num_hidden_layers=6)
    fitness = fitness_of(model)
    fitness([(1, 2, 1, 2, 1, 2)], 0)
    candidates = [(1, 2, 1, 2, 1, 1), (3, 2, 1, 2, 1, 2), (3, 2, 1, 1, 1, 2), (2, 2, 1, 1, 1, 2)]
    monkeypatch.setattr(trim_prune.msp.fitness, "CACHE_BYTES", fitness._kept_bytes() + 1)
    found = fitness(candidates, 0)
    assert found == [fitness_of(model)([levels], 0)[0] for levels in candidates]
    assert fitness._kept_bytes() <= trim_prune.msp.fitness.CACHE_BYTES


@torch.no_grad()
def test_positions_in_parts_give_the_same_losses(monkeypatch):
    model = make_model("llama")
    whole = fitness_of(model)(LEVELS, 0)
    monkeypatch.setattr(trim_prune.msp.fitness, "POSITIONS_AT_ONCE", 5)
    assert fitness_of(model)(LEVELS, 0) == pytest.approx(whole, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_models_are_near_those_of_masked_copies(dtype):
    model = make_model("llama").to(dtype)
    assert fitness_of(model)(LEVELS, 0) == pytest.approx(
        [by_copy(model, levels, 1, kl=True) for levels in LEVELS], rel=0.02, abs=1e-4
    )


@pytest.mark.parametrize(("stages", "seqlen", "wanted"), [((12, 36), 12, 3), ((2, 3), 64, 2), ((100,), 64, 2)])
def test_stages_take_whole_sequences_and_more_each_time(stages, seqlen, wanted):
    assert sequences_wanted(stages, seqlen) == wanted
