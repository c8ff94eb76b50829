from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, linears_of, make_model
from torch import nn

from trim_prune import TrimPruneError
from trim_prune.models.coverage import coverage, require_coverage
from trim_prune.models.discover import find_blocks, other_towers


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
    assert coverage([block]) == 16 / 20
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


class Tower(nn.Module):
    """A token embedding and its blocks, beside a longer list of others."""

    def __init__(self):
        super().__init__()
        block = nn.ModuleDict({"embed": nn.Embedding(3, 4), "layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(2))})
        self.language = block
        self.vision = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(5))})

    def get_input_embeddings(self):
        return self.language["embed"]


def test_the_blocks_beside_the_input_embedding_are_those_of_the_language_tower():
    model = Tower()
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == ["language.layers.0", "language.layers.1"]
    assert other_towers(model, blocks) == {"vision.layers": 5 * (64 + 8)}


def test_blocks_may_differ_from_one_another():
    first, second = nn.ModuleDict({"mixer": nn.Linear(4, 4)}), nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4))
    blocks = find_blocks(
        nn.ModuleDict({"layers": nn.ModuleList([first, second, first.__class__({"a": nn.Linear(4, 4)})])})
    )
    assert [[linear.name for linear in block.linears] for block in blocks] == [
        ["layers.0.mixer"],
        ["layers.1.0", "layers.1.1"],
        ["layers.2.a"],
    ]


class Fused(nn.Module):
    """Experts in two parameters, as transformers 5 has them."""

    def __init__(self, transposed):
        super().__init__()
        self.is_transposed = transposed
        shapes = [(4, 10), (5, 4)] if transposed else [(10, 4), (4, 5)]
        self.up, self.down = (nn.Parameter(torch.randn(3, *shape)) for shape in shapes)
        self.bias = nn.Parameter(torch.randn(3, 10))


@pytest.mark.parametrize("transposed", [False, True])
def test_every_expert_of_a_fused_parameter_is_a_linear(transposed):
    experts, router = Fused(transposed), nn.Linear(4, 3)
    block = nn.ModuleDict({"mlp": nn.ModuleDict({"router": router, "experts": experts, "shared": nn.Linear(4, 4)})})
    (found,) = find_blocks(nn.ModuleDict({"layers": nn.ModuleList([block])}))
    names = [f"layers.0.mlp.experts.{expert}.{name}" for expert in range(3) for name in ("up", "down")]
    assert [linear.name for linear in found.linears] == [*names, "layers.0.mlp.shared"]
    assert [linear.shape for linear in found.linears[:2]] == [(10, 4), (4, 5)]
    assert found.linears[3].weight_name == "layers.0.mlp.experts.down"
    assert [linear.routed for linear in found.linears] == [True] * 6 + [False]
    assert set(found.uncovered) == {"layers.0.mlp.router.weight", "layers.0.mlp.experts.bias"}


def test_a_fused_parameter_that_does_not_say_which_way_it_lies_is_uncovered():
    experts = Fused(False)
    del experts.is_transposed
    block = nn.ModuleDict({"experts": experts, "out": nn.Linear(4, 4)})
    (found,) = find_blocks(nn.ModuleDict({"layers": nn.ModuleList([block])}))
    assert [linear.name for linear in found.linears] == ["layers.0.out"]
    with pytest.raises(TrimPruneError, match=r"layers\.\*\.experts\.up \[3, 10, 4\](.|\n)*is_transposed(.|\n)*7\.1%"):
        require_coverage([found], allowed=False)


def test_gates_beside_a_list_of_experts_are_no_linears():
    parts = {"gate": nn.Linear(4, 2), "shared_gate": nn.Linear(4, 1), "shared": nn.Linear(4, 4)}
    block = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), **parts})
    (found,) = find_blocks(nn.ModuleDict({"layers": nn.ModuleList([block])}))
    assert [(linear.name, linear.routed) for linear in found.linears] == [
        ("layers.0.experts.0", True),
        ("layers.0.experts.1", True),
        ("layers.0.shared", False),
    ]
