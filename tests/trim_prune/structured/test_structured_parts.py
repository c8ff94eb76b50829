"""The parts of a block are found by structure, with heads as wide as the model says."""

from __future__ import annotations

import pytest
import torch
from architectures import make_architecture
from tiny_models import make_model
from torch import nn

from trim_prune import TrimPruneError
from trim_prune.models.discover import find_blocks
from trim_prune.structured import plan
from trim_prune.structured.parts import find_parts
from trim_prune.structured.recipe import StructuredRecipe

# KV groups, columns of a group in the linear that ends attention, query heads of a group.
GROUPS = {
    "llama": (2, 16, 2),
    "qwen2": (2, 16, 2),
    "mistral": (2, 16, 2),
    "gemma": (2, 24, 2),
    "opt": (4, 8, 1),
    "gpt_neox": (4, 8, 1),
}
RECIPE = StructuredRecipe(params=0.8)


def parts_of(model):
    return [find_parts(block, model.config) for block in find_blocks(model)]


def test_every_family_has_its_groups_and_channels(family):
    for each in parts_of(make_model(family)):
        attention, feed_forward = each
        assert (attention.units, attention.width, attention.heads) == GROUPS[family]
        assert (feed_forward.units, feed_forward.width, feed_forward.heads) == (48, 1, 0)
        assert (attention.kind, feed_forward.kind) == ("attention", "feed-forward")


def test_the_parameters_of_all_units_are_those_of_the_linears_without_the_last_bias(family):
    model = make_model(family)
    for block, each in zip(find_blocks(model), parts_of(model), strict=True):
        counted = sum(part.units * part.unit_parameters for part in each)
        ends = [part.linear(part.consumer).bias for part in each]
        left = sum(bias.numel() for bias in ends if bias is not None)
        assert counted + left == sum(p.numel() for linear in block.linears for p in linear.module.parameters())


def test_the_width_of_a_head_is_read_and_not_derived():
    attention = parts_of(make_model("llama", head_dim=20))[0].attention
    assert (attention.units, attention.width) == (2, 40)
    model = make_model("llama")
    del model.model.layers[0].self_attn.head_dim
    model.config.head_dim = None
    with pytest.raises(TrimPruneError, match=r"does not say how wide its heads are(.|\n)*block 0, self_attn"):
        parts_of(model)


def test_an_unknown_part_is_refused_with_what_was_looked_for():
    model = make_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.shrink = mlp.down_proj
    del mlp.down_proj
    with pytest.raises(TrimPruneError, match=r"no feed-forward part") as error:
        parts_of(model)
    assert "block 1, model.layers.1 (LlamaDecoderLayer)" in str(error.value)
    assert "fc1 with fc2" in error.value.expected
    assert "mlp.shrink" in error.value.got


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "gpt-oss", "deepseek-v3"])
def test_experts_are_refused_by_that_name(name):
    with pytest.raises(TrimPruneError, match=r"a block of experts(.|\n)*block \d, model\.layers"):
        plan.make_plan(make_architecture(name), RECIPE)


def test_two_feed_forward_parts_are_refused():
    model = make_model("llama")
    model.model.layers[0].more = make_model("llama").model.layers[0].mlp
    with pytest.raises(TrimPruneError, match=r"more than one feed-forward part(.|\n)*mlp, more"):
        parts_of(model)


def test_linears_that_hold_no_whole_heads_are_refused():
    model = make_model("llama")
    model.model.layers[0].self_attn.k_proj = nn.Linear(32, 15)
    with pytest.raises(TrimPruneError, match=r"do not hold whole heads(.|\n)*k_proj 15 x 32"):
        parts_of(model)
    model = make_model("llama")
    model.model.layers[0].mlp.gate_proj = nn.Linear(32, 47)
    with pytest.raises(TrimPruneError, match=r"do not hold the same channels(.|\n)*47, 48"):
        parts_of(model)


def test_multi_query_attention_keeps_its_heads_or_is_refused():
    model = make_model("llama", num_key_value_heads=1)
    with pytest.raises(TrimPruneError, match=r"multi-query attention(.|\n)*here with 4 query heads(.|\n)*heads: none"):
        plan.make_plan(model, RECIPE)
    found = plan.make_plan(model, StructuredRecipe(params=0.8, heads="none"))
    assert found.limits.of(found.parts[0].attention) == 0


def test_a_block_that_does_more_with_its_heads_is_refused_before_the_work(monkeypatch):
    model = make_model("llama")
    block = model.model.layers[0]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    forward = type(block.self_attn).forward

    def averaged(self, *args, **kwargs):
        # A head more or less changes the scale of the output.
        output, *rest = forward(self, *args, **kwargs)
        return (output / self.k_proj.out_features, *rest)

    monkeypatch.setattr(type(block.self_attn), "forward", averaged)
    with pytest.raises(TrimPruneError, match=r"cannot be taken out(.|\n)*model.layers.0(.|\n)*differ by"):
        plan.make_plan(model, RECIPE)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_nan_in_a_weight_is_refused_before_the_work():
    model = make_model("opt")
    model.model.decoder.layers[1].fc1.bias.data[3] = float("nan")
    with pytest.raises(TrimPruneError, match=r"NaN or infinity in the weights(.|\n)*block 1, feed-forward, fc1"):
        plan.make_plan(model, RECIPE)
