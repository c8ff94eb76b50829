from __future__ import annotations

import copy
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch import nn
from torch.nn import functional

from trim_prune import TrimPruneError
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.msp.fisher import FisherSums, fisher_sums

CPU = torch.device("cpu")
TOKENS = random_tokens(4, 12)


def captured(model):
    with torch.no_grad():
        return Capture(model, find_blocks(model), TOKENS)


def linears_in(model):
    return [linear for block in find_blocks(model) for linear in block.linears]


def by_autograd(model, token_ids, batch_size=1):
    """The sums from gradients of the mean loss of so many sequences at a time."""
    weights = [linear.module.weight for linear in linears_in(model)]
    trace, weighted = [0.0] * len(weights), [0.0] * len(weights)
    for batch in token_ids.split(batch_size):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, weights)
        for index, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
            gradient, weight = gradient.double(), weight.detach().double()
            trace[index] += float(gradient.square().sum())
            weighted[index] += float((gradient * weight).square().sum())
    return FisherSums(len(token_ids), trace, weighted)


def assert_near(ours, theirs, relative):
    assert ours.sequences == theirs.sequences
    assert ours.trace == pytest.approx(theirs.trace, rel=relative, abs=0)
    assert ours.weighted == pytest.approx(theirs.weighted, rel=relative, abs=0)
    assert min(ours.trace) > 0
    assert min(ours.weighted) > 0


def test_sums_equal_those_of_autograd_on_the_whole_model(family):
    """Two of the families have tied embeddings."""
    model = make_model(family)
    assert_near(fisher_sums(captured(model), TOKENS, CPU), by_autograd(model, TOKENS), 1e-5)


def test_a_matrix_may_be_larger_than_a_tile(monkeypatch):
    model = make_model("llama")
    monkeypatch.setattr("trim_prune.tiles.TILE", 100)
    assert_near(fisher_sums(captured(model), TOKENS, CPU), by_autograd(model, TOKENS), 1e-5)


def test_squaring_the_gradient_of_a_batch_is_something_else():
    model = make_model("llama")
    tokens = random_tokens(8, 12)
    ours, batched = fisher_sums(captured(model), tokens, CPU), by_autograd(model, tokens, batch_size=8)
    assert all(8 * one < 0.6 * each for one, each in zip(batched.trace, ours.trace, strict=True))


@pytest.mark.parametrize(("dtype", "relative"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_comes_near_the_sums_of_the_same_weights_in_float32(dtype, relative):
    model = make_model("llama", dtype=dtype)
    exact = by_autograd(copy.deepcopy(model).float(), TOKENS)
    assert_near(fisher_sums(captured(model), TOKENS, CPU), exact, relative)


def test_continued_sums_are_those_of_one_run_to_the_bit():
    capture, history = captured(make_model("gpt_neox")), []
    whole = fisher_sums(capture, TOKENS, CPU, on_sequence=history.append)
    assert [sums.sequences for sums in history] == [1, 2, 3, 4]
    assert history[-1] == whole
    for sums in history:
        read_back = FisherSums(**json.loads(json.dumps(asdict(sums))))
        assert fisher_sums(capture, TOKENS, CPU, done=read_back) == whole


def test_an_interrupted_run_goes_on():
    capture, history = captured(make_model("llama")), []

    def stop(sums):
        history.append(sums)
        if sums.sequences == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fisher_sums(capture, TOKENS, CPU, on_sequence=stop)
    assert fisher_sums(capture, TOKENS, CPU, done=history[-1]) == fisher_sums(capture, TOKENS, CPU)


def stop(sums):
    raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True], ids=["to the end", "interrupted"])
def test_the_model_is_left_as_it_was(interrupted):
    model = make_model("opt").train()
    parameters = list(model.parameters())
    for index, parameter in enumerate(parameters):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
    before = [(p.requires_grad, p.grad, None if p.grad is None else p.grad.clone(), p.clone()) for p in parameters]
    model.eval()
    capture = captured(model)
    model.train()
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            fisher_sums(capture, TOKENS, CPU, on_sequence=stop)
    else:
        fisher_sums(capture, TOKENS, CPU)
    assert all(module.training for module in model.modules())
    for parameter, (required, gradient, values, weight) in zip(parameters, before, strict=True):
        assert parameter.requires_grad == required
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, values)
        assert torch.equal(parameter, weight)
        assert not parameter._post_accumulate_grad_hooks


def test_an_exception_in_a_backward_pass_leaves_the_model_as_it_was():
    model = make_model("llama")
    capture = captured(model)
    weight = capture.blocks[0].linears[0].module.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(TrimPruneError, match=r"NaN or infinity(.|\n)*block 0, model\.layers\.0\.self_attn\.q_proj"):
        fisher_sums(capture, TOKENS, CPU)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not weight._post_accumulate_grad_hooks


def test_one_weight_gradient_at_a_time_and_one_block_that_requires_any():
    model = make_model("llama")
    capture, seen = captured(model), []
    weights = [linear.module.weight for linear in linears_in(model)]
    per_block = len(weights) // 2

    def look(_):
        alive = [weight.grad is not None for weight in weights]
        required = [parameter for parameter in model.parameters() if parameter.requires_grad]
        seen.append((sum(alive), len(required), alive.index(True) // per_block))

    handles = [weight.register_post_accumulate_grad_hook(look) for weight in weights]
    fisher_sums(capture, TOKENS[:1], CPU)
    assert seen == [(1, per_block, 1)] * per_block + [(1, per_block, 0)] * per_block
    assert len(handles) == len(seen)


def test_the_callers_gradient_mode_does_not_matter():
    capture = captured(make_model("llama"))
    with torch.no_grad():
        inside = fisher_sums(capture, TOKENS[:2], CPU)
    assert inside == fisher_sums(capture, TOKENS[:2], CPU)


class Experts(nn.Module):
    """The second of its linears is never used."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, hidden):
        return hidden + torch.tanh(self.used(self.used(hidden)))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(300, 6), nn.Linear(6, 300)
        self.layers = nn.ModuleList([Experts() for _ in range(3)])

    def forward(self, input_ids, use_cache):
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return SimpleNamespace(logits=self.head(hidden))


def test_a_linear_that_is_not_used_counts_zero_and_one_used_twice_counts_whole():
    torch.manual_seed(0)
    model = Mixture()
    ours = fisher_sums(captured(model), TOKENS, CPU)
    assert ours.trace[1::2] == ours.weighted[1::2] == [0.0] * 3
    for linear in linears_in(model)[1::2]:
        linear.module.weight.requires_grad_(False)
    used, trace = [layer.used.weight for layer in model.layers], [0.0] * 3
    for sequence in TOKENS:
        loss = functional.cross_entropy(model(sequence[None], use_cache=False).logits[0, :-1], sequence[1:])
        for index, gradient in enumerate(torch.autograd.grad(loss, used)):
            trace[index] += float(gradient.double().square().sum())
    assert ours.trace[::2] == pytest.approx(trace, rel=1e-5)


def test_logits_that_are_not_finite_are_refused():
    model = make_model("llama")
    capture = captured(model)
    with torch.no_grad():
        model.lm_head.weight[5, 5] = torch.nan
    with pytest.raises(TrimPruneError, match=r"NaN or infinity(.|\n)*where: +block 1(.|\n)*fix:"):
        fisher_sums(capture, TOKENS, CPU)


@pytest.mark.parametrize(
    ("tokens", "done", "message"),
    [
        (TOKENS[:, :1], None, "predicts nothing"),
        (TOKENS, FisherSums(5, [0.0] * 14, [0.0] * 14), "belong to another run(.|\n)*at most 4(.|\n)*5 sequences"),
        (TOKENS, FisherSums(1, [0.0] * 13, [0.0] * 13), "belong to another run(.|\n)*14 linears(.|\n)*13 linears"),
    ],
    ids=["one token", "more sequences", "other linears"],
)
def test_what_cannot_be_summed_is_refused(tokens, done, message):
    with pytest.raises(TrimPruneError, match=message):
        fisher_sums(captured(make_model("llama")), tokens, CPU, done=done)
