"""The memory of a forward, counted without data."""

from __future__ import annotations

import pytest
import torch
from architectures import make_architecture
from tiny_models import FAMILIES, HIDDEN, make_model

from trim_prune.estimate.forward import Workspace, forward_workspace
from trim_prune.models.discover import find_blocks
from trim_prune.models.headers import outline_model

TOKENS = 16


def workspace(model, tokens=TOKENS):
    return forward_workspace(model, find_blocks(model), tokens)


def test_a_llama_holds_its_hidden_state_twice_and_its_channels_three_times_at_the_highest_moment():
    # The sum of the attention, its norm; gate, up and their product.
    expected = TOKENS * 4 * (2 * HIDDEN + 3 * 48)
    assert workspace(make_model("llama")) == Workspace(0, expected)


def test_a_fused_attention_holds_no_scores_and_another_one_does():
    fused, explicit = make_model("llama"), make_model("llama", attn_implementation="eager")
    scores = 4 * TOKENS**2 * 4
    assert workspace(explicit).batch > workspace(fused).batch
    long = (workspace(model, 4 * TOKENS).batch for model in (fused, explicit))
    assert next(long) == 4 * workspace(fused).batch
    assert next(long) > 16 * scores


@pytest.mark.parametrize("name", [*FAMILIES, "phi3", "gpt2", "gemma3", "mamba", "llava"])
def test_weights_are_not_needed(name, tokenizer, tmp_path):
    model = make_architecture(name)
    model.save_pretrained(tmp_path)
    empty, _ = outline_model(tmp_path, name, dtype="auto", device=torch.device("cpu"), trust_remote_code=False)
    assert workspace(empty) == workspace(model)


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe"])
def test_where_a_forward_depends_on_data_its_linears_are_counted(name):
    model = make_architecture(name)
    found = workspace(model)
    assert found.fixed == 0
    assert found.batch >= TOKENS * 4 * 4 * HIDDEN
    assert workspace(model, 2 * TOKENS).batch == 2 * found.batch


def test_the_model_is_as_it_was():
    model = make_model("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forwards = [block.module.forward for block in find_blocks(model)]
    workspace(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [block.module.forward for block in find_blocks(model)] == forwards
