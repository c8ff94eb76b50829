from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, linears_of, make_model
from torch import nn

from trim_prune import TrimPruneError
from trim_prune.models.discover import find_blocks


def test_finds_the_linears_of_every_block_by_structure(family):
    model = make_model(family)
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == [f"{FAMILIES[family].blocks}.{index}" for index in range(LAYERS)]
    found = {linear.name: linear.module for block in blocks for linear in block.linears}
    assert found == linears_of(model, family)


def test_weight_names_are_those_of_the_state_dict(family):
    model = make_model(family)
    state = model.state_dict()
    for block in find_blocks(model):
        for linear in block.linears:
            assert torch.equal(state[linear.weight_name], linear.module.weight)


def test_embeddings_and_output_head_are_left_out(family):
    model = make_model(family)
    found = {id(linear.module.weight) for block in find_blocks(model) for linear in block.linears}
    assert id(model.get_input_embeddings().weight) not in found
    assert id(model.get_output_embeddings().weight) not in found


def test_coverage_counts_the_matrices_outside_the_linears():
    inside = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(2), nn.Embedding(2, 2))
    block = find_blocks(nn.Sequential(nn.ModuleList([inside])))[0]
    assert block.coverage == 16 / 20
    assert list(block.uncovered) == ["0.0.2.weight"]


def test_experts_inside_a_block_are_not_taken_for_blocks():
    block = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2) for _ in range(9)])})
    blocks = find_blocks(nn.ModuleDict({"layers": nn.ModuleList([block])}))
    assert [b.name for b in blocks] == ["layers.0"]
    assert len(blocks[0].linears) == 9


def test_the_longest_list_of_one_class_is_chosen():
    short = nn.ModuleList([nn.Linear(64, 64) for _ in range(2)])
    long = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    mixed = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Bilinear(2, 2, 2), nn.Linear(2, 2)])
    blocks = find_blocks(nn.ModuleDict({"vision": short, "text": long, "mixed": mixed}))
    assert [b.name for b in blocks] == ["text.0", "text.1", "text.2"]


def test_a_model_without_blocks_is_refused_with_what_it_has():
    with pytest.raises(TrimPruneError, match=r"no decoder blocks in Sequential(.|\n)*2 Linear, 1 Embedding"):
        find_blocks(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)))


def test_a_weight_shared_by_two_linears_is_refused_with_both_names():
    model = make_model("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(TrimPruneError, match=r"layers\.0\.mlp\.up_proj and model\.layers\.1\.mlp\.up_proj"):
        find_blocks(model)
