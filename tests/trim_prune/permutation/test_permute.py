"""A prune that permutes: the same as pruning a model whose columns have that order already."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import linears_of, make_model, random_tokens, save_model
from transformers import AutoModelForCausalLM

from trim_kernels import unpack_bits
from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.calibration.text import open_text
from trim_prune.calibration.tokens import calibration_tokens
from trim_prune.engine import make_plan, walk
from trim_prune.events import Events
from trim_prune.scores import SCORES, Importance, Score
from trim_prune.timing import Timings

BASE = {"pattern": "keep 2 of 4", "samples": 4, "seqlen": 16, "device": "cpu"}
PERMUTE = BASE | {"permute": True}


def moves_of(model, recipe, tokenizer, text):
    """Prune a model in place; what was moved in it before."""
    recipe = Recipe.build(recipe)
    calibration = calibration_tokens(tokenizer, open_text([text]), samples=4, seqlen=16, seed=0)
    return walk(make_plan(model, recipe), calibration, Events(), Timings())[2]


CHOICES = {
    "wanda": {},
    "ria": {"score": "ria"},
    "obs": {"score": "obs"},
    "recapture": {"recapture": True},
    "correction": {"correction": 0.5},
    "correction, recapture": {"correction": 0.5, "recapture": True},
    "sparsegpt": {"preset": "sparsegpt"},
    "magnitude, sparsegpt": {"score": "magnitude", "solver": "sparsegpt"},
    "of 4": {"pattern": "of 4", "sparsity": 0.6},
}


@torch.no_grad()
@pytest.mark.parametrize("choice", CHOICES)
def test_it_equals_pruning_the_model_in_that_order(choice, tokenizer, text):
    dense, recipe = make_model("qwen2"), PERMUTE | CHOICES[choice]
    model, ordered = copy.deepcopy(dense), copy.deepcopy(dense)
    moves = moves_of(model, recipe, tokenizer, text)
    for move in moves:
        ordered.get_parameter(move.parameter).data = move.of(ordered.get_parameter(move.parameter).data)
    tokens = random_tokens(2, 20)
    torch.testing.assert_close(ordered(input_ids=tokens).logits, dense(input_ids=tokens).logits, rtol=1e-4, atol=1e-4)
    prune(ordered, recipe | {"permute": False}, [text], tokenizer=tokenizer)
    assert {move.parameter.rpartition(".")[0] for move in moves} == {
        name
        for name in linears_of(dense, "qwen2")
        if name.endswith(("o_proj", "v_proj", "gate_proj", "up_proj", "down_proj"))
    }
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, ordered.get_parameter(name), rtol=1e-5, atol=1e-6, msg=name)


@torch.no_grad()
def test_results_say_what_the_pattern_keeps_of_the_scores(family, tokenizer, text):
    dense = make_model(family)
    model = copy.deepcopy(dense)
    result = prune(model, PERMUTE | {"score": "magnitude"}, [text], tokenizer=tokenizer)
    permuted = {linear.name: linear.permuted for linear in result.linears if linear.permuted is not None}
    assert {name.rpartition(".")[2] for name in permuted} <= {"o_proj", "out_proj", "down_proj", "fc2", "dense_4h_to_h"}
    assert len(permuted) == (2 if family == "gpt_neox" else 4)
    for name, (before, after) in permuted.items():
        assert 0.5 < before < after < 1
        assert after == pytest.approx(
            float(model.get_submodule(name).weight.abs().sum() / dense.get_submodule(name).weight.abs().sum()), rel=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2", "opt", "gpt_neox"])
@pytest.mark.parametrize("from_folder", [True, False], ids=["from a folder", "from memory"])
def test_the_written_model_has_the_moved_biases(family, from_folder, tokenizer, text, tmp_path):
    in_memory = make_model(family)
    source = save_model(tmp_path / "source", in_memory, tokenizer) if from_folder else make_model(family)
    prune(in_memory, PERMUTE, [text], tokenizer=tokenizer)
    prune(source, PERMUTE, [text], out=tmp_path / "out", **({} if from_folder else {"tokenizer": tokenizer}))
    reloaded, tokens = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), random_tokens(2, 24)
    assert torch.equal(reloaded(input_ids=tokens).logits, in_memory(input_ids=tokens).logits)


def test_what_was_only_moved_keeps_its_stored_bits(tokenizer, text, tmp_path):
    dense = make_model("qwen2")
    source = save_model(tmp_path / "source", dense, tokenizer)
    result = prune(source, PERMUTE | {"dtype": "bfloat16"}, [text], out=tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, parameter in dense.named_parameters():
        kept = written[name]
        if name in result.masks:
            kept = kept[unpack_bits(result.masks[name], kept.shape[1])]
        assert torch.isin(kept, parameter).all(), name


def test_run_json_and_events_tell_it(invoke, llama_folder, tmp_path):
    out = tmp_path / "out"
    options = ["--score", "magnitude", "--keep", 2, "--of", 4, "--permute"]
    code, _, err = invoke("prune", llama_folder, *options, "--out", out)
    assert code == 0, err
    run = json.loads((out / "run.json").read_text())
    told = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    by_name = {event["name"]: event.get("permuted") for event in told if event["event"] == "linear"}
    assert run["recipe"]["permute"] is True
    assert {linear["name"]: linear["permuted"] for linear in run["linears"]} == by_name
    assert sum(shares is not None for shares in by_name.values()) == 4
    assert run["seconds"]["permute"] > 0
    assert "scipy" in run["versions"]


def test_what_is_refused_is_warned_of(tokenizer, text):
    recipe = PERMUTE | {"pattern": "keep 2 of 3", "score": "magnitude"}
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    assert result.warnings == [
        "linears keep the order of their columns that might have had another: "
        "o_proj: groups of 3 columns do not divide a head of 8 (2)",
        "groups of 3 do not divide the columns of some linears, whose last, shorter group keeps its share, "
        "rounded up: 2 left of 32 (12 linears)",
    ]
    assert sum(linear.permuted is not None for linear in result.linears) == 2


@pytest.mark.parametrize("pattern", ["keep 0 of 4", "keep 4 of 4"])
def test_a_pattern_that_no_order_changes_moves_nothing(pattern, tokenizer, text):
    result = prune(make_model("llama"), PERMUTE | {"pattern": pattern}, [text], tokenizer=tokenizer)
    assert all(linear.permuted is None for linear in result.linears)


def test_permute_goes_with_a_pattern_only():
    with pytest.raises(TrimPruneError, match=r"no groups to order columns for(.|\n)*keep 2 of 4"):
        Recipe.build({"sparsity": 0.5, "permute": True})
    recipe = Recipe.build({"pattern": "of 8", "sparsity": 0.5, "permute": True})
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe
    assert not Recipe.build({"pattern": "keep 2 of 4"}).permute


def test_a_model_in_which_nothing_can_move_is_refused_before_any_work(monkeypatch, tokenizer, text):
    model = make_model("gpt_neox")
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("trim_prune.permutation.find.CHANNELS", {})
    with pytest.raises(TrimPruneError, match="columns of no linear of this model"):
        prune(model, PERMUTE, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_score_that_is_no_number_names_block_and_linear(monkeypatch, tokenizer, text):
    def not_a_number(request):
        return Importance(score=torch.full(request.weight.shape, torch.nan))

    monkeypatch.setitem(SCORES._entries, "not-a-number", Score(not_a_number, frozenset()))
    with pytest.raises(TrimPruneError, match=r"finite(.|\n)*block 0, model\.layers\.0\.self_attn\.o_proj"):
        prune(make_model("llama"), PERMUTE | {"score": "not-a-number"}, [text], tokenizer=tokenizer)
