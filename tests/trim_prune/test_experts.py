"""Mixtures of experts: every expert is a linear of its own, with the statistics of the tokens that it saw."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from architectures import make_architecture
from tiny_models import make_model, random_tokens
from torch import nn
from torch.nn import functional

from trim_prune import TrimPruneError, prune
from trim_prune.calibration.statistics import UNSEEN, Collector
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.msp.fisher import fisher_sums
from trim_prune.output_gradients import output_gradients

CALIBRATION = {"samples": 6, "seqlen": 16, "batch_size": 4}
WANDA = {"sparsity": 0.5, "rows": "uniform", **CALIBRATION}
CPU = torch.device("cpu")


class ListOfExperts(nn.Module):
    """Three experts as modules, by the sign of a token's first feature; the third one never sees a token."""

    def __init__(self, mlp):
        super().__init__()
        self.gate = nn.Linear(32, 3, bias=False)
        self.experts = nn.ModuleList([copy.deepcopy(mlp) for _ in range(3)])

    def forward(self, hidden):
        flat, output = hidden.flatten(0, 1), torch.zeros_like(hidden).flatten(0, 1)
        choice = (flat[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            chosen = choice == number
            if chosen.any():
                output[chosen] = expert(flat[chosen])
        return output.view_as(hidden) + self.gate(hidden).mean()


def model_with_lists():
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp = ListOfExperts(layer.mlp)
    return model


def layers_of(name):
    """The model of an architecture, its first block, and the module with the fused experts of it; None: a list."""
    model = make_architecture(name)
    block = find_blocks(model)[0]
    fused = {id(linear.module): linear.module for linear in block.linears if linear.expert is not None}
    if not fused:
        pytest.skip("experts are modules in this version of transformers")
    return model, block, next(iter(fused.values()))


def routed_by(module, run):
    """What the experts are called with: hidden states, chosen experts, their weights; and what they put out."""
    calls = []
    handle = module.register_forward_hook(lambda _, args, output: calls.append((*args, output)))
    run()
    handle.remove()
    return calls[0]


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe"])
def test_the_inputs_of_every_fused_expert_are_those_that_the_router_sends_to_it(name):
    model, block, experts = layers_of(name)
    ids = random_tokens(1, 24)
    hidden, chosen, weights, output = routed_by(experts, lambda: model(input_ids=ids))
    collector = Collector(block.linears, frozenset({"column_energy", "gram"}), 1, nullcontext)
    with collector.batch(1, 24):
        *_, watched_output = routed_by(experts, lambda: model(input_ids=ids))
    torch.testing.assert_close(watched_output, output, rtol=1e-5, atol=1e-6)
    total = 0
    for linear in (linear for linear in block.linears if linear.routed):
        tokens = (chosen == linear.expert).any(dim=1)
        seen = hidden[tokens]
        if linear.parameter == "down_proj":
            gate, up = functional.linear(seen, experts.gate_up_proj[linear.expert]).chunk(2, dim=-1)
            seen = experts.act_fn(gate) * up
        found = collector.statistics(linear)
        assert found.tokens == len(seen)
        total += len(seen)
        torch.testing.assert_close(found.column_energy, seen.double().square().sum(0), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.gram, seen.t() @ seen, rtol=1e-4, atol=1e-5)
    assert total == 2 * 24 * chosen.shape[1]
    assert weights.shape == chosen.shape


@torch.no_grad()
def test_the_implementation_of_the_experts_is_afterwards_what_it_was():
    model, block, experts = layers_of("mixtral")
    before = experts.config._experts_implementation
    collector = Collector(block.linears, frozenset({"column_energy"}), 1, nullcontext)
    seen = []
    handle = experts.register_forward_pre_hook(lambda *_: seen.append(experts.config._experts_implementation))
    with pytest.raises(RuntimeError), collector.batch(1, 8):
        model(input_ids=torch.zeros(1, 8))
    with collector.batch(1, 8):
        model(input_ids=random_tokens(1, 8))
    handle.remove()
    assert seen == ["eager"]
    assert experts.config._experts_implementation == before
    assert model.config._experts_implementation == before


def test_routers_stay_dense(tokenizer, text):
    models = [make_architecture(name) for name in ("mixtral", "qwen2-moe")] + [model_with_lists()]
    for model in models:
        routers = {name: p.clone() for name, p in model.named_parameters() if "gate.weight" in name}
        assert routers
        prune(model, WANDA, [text], tokenizer=tokenizer)
        assert all(torch.equal(model.get_parameter(name), router) for name, router in routers.items())


@pytest.mark.parametrize("make", [lambda: make_architecture("mixtral"), model_with_lists], ids=["fused", "list"])
def test_the_batch_size_changes_nothing(make, tokenizer, text):
    one, many = (
        prune(make(), WANDA | {"batch_size": size}, [text], tokenizer=tokenizer).model.state_dict() for size in (1, 4)
    )
    assert all(torch.equal(tensor, many[name]) for name, tensor in one.items())


def test_an_expert_that_no_token_reached_loses_its_smallest_weights(tokenizer, text):
    model = model_with_lists()
    before = copy.deepcopy(model.model.layers[0].mlp.experts[2])
    result = prune(model, WANDA, [text], tokenizer=tokenizer)
    assert all((UNSEEN in linear.steps) == (".experts.2." in linear.name) for linear in result.linears)
    assert all((linear.tokens == 0) == (".experts.2." in linear.name) for linear in result.linears)
    told = [warning for warning in result.warnings if "of experts saw fewer calibration tokens" in warning]
    assert len(told) == 1
    assert "6 of them none (least: 0, model.layers.0.mlp.experts.2." in told[0]
    for name in ("gate_proj", "up_proj", "down_proj"):
        dense, pruned = before.get_submodule(name).weight, model.model.layers[0].mlp.experts[2].get_submodule(name)
        smallest = dense.abs().argsort(dim=1)[:, : dense.shape[1] // 2]
        expected = torch.ones_like(dense, dtype=torch.bool).scatter_(1, smallest, False)
        assert torch.equal(pruned.weight != 0, expected)


@pytest.mark.parametrize("method", [{"rows": "trim"}, {"solver": "sparsegpt"}, {"score": "ria"}], ids=str)
def test_an_expert_that_no_token_reached_suits_every_method(method, tokenizer, text):
    result = prune(model_with_lists(), WANDA | method, [text], tokenizer=tokenizer)
    assert sum(UNSEEN in linear.steps for linear in result.linears) == 6
    assert result.sparsity.of_prunable == 0.5


def test_an_expert_that_no_token_reached_is_an_error_where_fallbacks_are(tokenizer, text):
    with pytest.raises(TrimPruneError, match=r"needs a fallback(.|\n)*experts\.2\.gate_proj(.|\n)*no token reached"):
        prune(model_with_lists(), WANDA | {"strict": True}, [text], tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe"])
def test_every_token_is_seen_by_as_many_experts_as_the_router_chooses(name, tokenizer, text):
    result = prune(make_architecture(name), WANDA, [text], tokenizer=tokenizer)
    seen = {}
    for linear in result.linears:
        role = (linear.block, linear.name.rpartition(".")[2], ".experts." in linear.name)
        seen[role] = seen.get(role, 0) + linear.tokens
    assert {count for (_, _, expert), count in seen.items() if expert} == {2 * 6 * 16}


@pytest.mark.parametrize("make", [lambda: make_architecture("mixtral"), model_with_lists], ids=["fused", "list"])
def test_correction_leaves_out_experts_and_says_so(make, tokenizer, text):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = prune(model, WANDA | {"correction": 0.5}, [text], tokenizer=tokenizer)
    assert any("correction leaves out experts" in warning for warning in result.warnings)
    changed = set()
    for name, tensor in model.state_dict().items():
        kept = tensor != 0
        if not torch.equal(tensor[kept], before[name][kept]):
            changed.add(name)
    assert changed
    assert not any(".experts." in name for name in changed)


@pytest.mark.parametrize("recipe", [{"recapture": True}, {"layers": "owl"}, {"rows": "optimal"}], ids=str)
@pytest.mark.parametrize("make", [lambda: make_architecture("mixtral"), model_with_lists], ids=["fused", "list"])
def test_experts_go_with_what_else_a_recipe_may_ask_for(make, recipe, tokenizer, text):
    result = prune(make(), WANDA | recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.of_prunable == 0.5


def test_an_n_m_pattern_keeps_its_share_of_every_expert(tokenizer, text):
    model = make_architecture("mixtral")
    recipe = {"pattern": "keep 2 of 4", **CALIBRATION}
    prune(model, recipe, [text], tokenizer=tokenizer)
    for block in find_blocks(model):
        for linear in block.linears:
            assert bool(((linear.weight != 0).view(linear.shape[0], -1, 4).sum(dim=2) == 2).all())


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_gradients_are_those_of_autograd(name):
    model, ids = make_architecture(name), random_tokens(2, 10)
    blocks = find_blocks(model)
    capture = Capture(model, blocks, ids)
    sums, gradients = fisher_sums(capture, ids, CPU), output_gradients(capture, ids, CPU)
    expected = dict.fromkeys((linear for block in blocks for linear in block.linears), 0.0)
    for sequence in ids:
        model.zero_grad()
        logits = model(input_ids=sequence[None]).logits[0, :-1]
        functional.cross_entropy(logits, sequence[1:]).backward()
        for linear in expected:
            if linear.whole.grad is not None:
                expected[linear] += float(linear.of(linear.whole.grad).square().sum())
    for (linear, trace), found in zip(expected.items(), sums.trace, strict=True):
        assert found == pytest.approx(trace, rel=1e-3), linear.name
        # The weight's gradient is the outputs' times the inputs: where one is zero, so is the other.
        assert bool(gradients[linear].any()) == (trace > 0)
        assert gradients[linear].shape == (linear.shape[0],)
