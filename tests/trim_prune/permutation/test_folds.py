"""Where columns may be reordered: there the model stays the same function, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch import nn

from trim_prune import TrimPruneError
from trim_prune.models.discover import find_blocks
from trim_prune.pattern import Pattern
from trim_prune.permutation import find, find_folds
from trim_prune.permutation.fold import apply

OF_4 = Pattern(2, 4)
ENDS = {"opt": {"self_attn.out_proj", "fc2"}, "gpt_neox": {"mlp.dense_4h_to_h"}}
GATED = {"self_attn.o_proj", "mlp.down_proj"}


def folds_of(model, pattern=OF_4):
    blocks = find_blocks(model)
    found = find_folds(model, blocks, pattern)
    names = [{fold.consumer for linear, fold in found.of.items() if linear.block == block.index} for block in blocks]
    return blocks, found, names


def shuffle(blocks, found):
    generator = torch.Generator().manual_seed(1)
    for linear, fold in found.of.items():
        order = torch.stack([torch.randperm(fold.width, generator=generator) for _ in range(fold.heads)])
        block = blocks[linear.block].module
        apply(block, fold.moves(block, order))


@torch.no_grad()
def test_any_order_leaves_the_model_the_same_function(family):
    model, tokens = make_model(family), random_tokens(2, 24)
    before, weights = model(input_ids=tokens).logits, {n: p.clone() for n, p in model.named_parameters()}
    blocks, found, names = folds_of(model)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert names == [ENDS.get(family, GATED)] * 2
    shuffle(blocks, found)
    torch.testing.assert_close(model(input_ids=tokens).logits, before, rtol=1e-4, atol=1e-4)
    for linear, fold in found.of.items():
        block = blocks[linear.block]
        for move in fold.moves(block.module, torch.arange(fold.width).expand(fold.heads, -1)):
            name = f"{block.name}.{move.parameter}"
            assert not torch.equal(model.get_parameter(name), weights[name]), name


def test_biases_of_the_linears_that_feed_move_with_their_rows():
    moved = {family: set() for family in ("qwen2", "opt", "gpt_neox")}
    for family, names in moved.items():
        blocks, found, _ = folds_of(make_model(family))
        for linear, fold in found.of.items():
            order = torch.arange(fold.width).expand(fold.heads, -1)
            names |= {move.parameter for move in fold.moves(blocks[linear.block].module, order)}
    assert {name for name in moved["qwen2"] if name.endswith("bias")} == {"self_attn.v_proj.bias"}
    assert {name for name in moved["opt"] if name.endswith("bias")} == {"self_attn.v_proj.bias", "fc1.bias"}
    assert {name for name in moved["gpt_neox"] if name.endswith("bias")} == {"mlp.dense_h_to_4h.bias"}


def test_groups_that_would_cross_heads_are_refused():
    _, found, names = folds_of(make_model("llama"), Pattern(2, 3))
    assert names == [{"mlp.down_proj"}] * 2
    assert found.refused == {"o_proj: groups of 3 columns do not divide a head of 8": 2}


def test_an_attention_that_does_not_tell_its_heads_is_refused():
    model = make_model("llama")
    model.model.layers[1].self_attn.head_dim = Untold()
    _, found, names = folds_of(model)
    assert names == [GATED, {"mlp.down_proj"}]
    assert found.refused == {"o_proj: its attention does not say how wide a head is": 1}


class Untold:
    """Enough for the attention to run, but no int."""

    def __index__(self):
        return 8


class Scaled(nn.Module):
    """A linear behind a norm-like gain of its own for each column."""

    def __init__(self, inner, gain):
        super().__init__()
        self.inner, self.gain = inner, gain

    def forward(self, inputs):
        return self.inner(inputs) * self.gain.to(inputs.dtype)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_a_block_that_treats_columns_unlike_is_refused(spread):
    model = make_model("llama")
    model.model.layers[0].mlp.act_fn = Scaled(nn.SiLU(), 1 + spread * torch.rand(48))
    _, found, names = folds_of(model)
    assert names == [{"self_attn.o_proj"}, GATED]
    assert found.refused == {"down_proj: in another order the block computes something else": 1}


def test_a_gain_that_is_the_same_for_all_columns_does_no_harm():
    model = make_model("llama")
    model.model.layers[0].mlp.act_fn = Scaled(nn.SiLU(), torch.full((48,), 2.0))
    assert folds_of(model)[2] == [GATED] * 2


def test_a_linear_that_the_block_does_not_call_is_refused():
    model = make_model("llama")
    model.model.layers[1].mlp.forward = lambda hidden: hidden
    _, found, names = folds_of(model)
    assert names == [GATED, {"self_attn.o_proj"}]
    assert sum(found.refused.values()) == 1


class Doubled(nn.Module):
    def forward(self, hidden):
        return torch.cat([hidden, hidden], dim=-1)


def test_rows_that_are_not_those_columns_are_refused():
    model = make_model("opt")
    for block in model.model.decoder.layers:
        block.fc1 = nn.Linear(32, 24)
        block.activation_fn = Doubled()
    _, found, names = folds_of(model)
    assert names == [{"self_attn.out_proj"}] * 2
    assert found.refused == {"fc2: 48 columns are not fed by 24 rows in heads of 48": 2}


def test_a_model_without_any_is_refused(monkeypatch):
    monkeypatch.setattr(find, "CHANNELS", {})
    model = make_model("llama")
    message = (
        r"columns of no linear(.|\n)*o_proj: groups of 3 columns do not divide a head of 8(.|\n)*go without permute"
    )
    with pytest.raises(TrimPruneError, match=message):
        folds_of(model, Pattern(2, 3))
    with pytest.raises(TrimPruneError, match=r"linears of other names"):
        folds_of(make_model("gpt_neox"))
