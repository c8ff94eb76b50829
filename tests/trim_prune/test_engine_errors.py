from __future__ import annotations

import pytest
import torch
from tiny_models import make_model
from torch import nn

from trim_prune import Event, TrimPruneError, api, prune, register_layer_budget, timing
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.cache import cache_file

BASE = {"sparsity": 0.5, "samples": 4, "seqlen": 16}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("score", ["wanda", "magnitude"])
@pytest.mark.parametrize("block", [0, 1])
def test_a_weight_that_is_not_finite_names_block_and_linear(block, value, score, tokenizer, text):
    model = make_model("llama")
    model.model.layers[block].mlp.up_proj.weight.data[3, 5] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        TrimPruneError, match=rf"in the weights(.|\n)*block {block}, model\.layers\.{block}\.mlp\.up_proj"
    ):
        prune(model, {**BASE, "score": score}, [text], tokenizer=tokenizer)
    assert all(tensor.equal(before[name]) or "up_proj" in name for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda model: model.model.embed_tokens, "the input of block 0"),
        (lambda model: model.model.layers[0].input_layernorm, "the output of block 0"),
        (lambda model: model.model.layers[1].input_layernorm, r"block 1, model\.layers\.1\.self_attn\.q_proj"),
    ],
    ids=["embedding", "block 0", "block 1"],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_hidden_states_that_are_not_finite_are_said_to_be_so(make, where, value, tokenizer, text):
    model = make_model("llama")
    make(model).weight.data.fill_(value)
    with pytest.raises(TrimPruneError, match=rf"NaN or infinity in the (hidden|inputs)(.|\n)*{where}"):
        prune(model, BASE, [text], tokenizer=tokenizer)


def test_an_activation_that_overflows_names_block_and_linear(tokenizer, text):
    model = make_model("llama", dtype=torch.float16)
    model.model.layers[1].input_layernorm.weight.data.fill_(60_000)
    where = r"inputs of a linear(.|\n)*block 1, model\.layers\.1\.self_attn\.q_proj(.|\n)*--dtype bfloat16"
    with pytest.raises(TrimPruneError, match=where):
        prune(model, BASE, [text], tokenizer=tokenizer)


@pytest.mark.parametrize("block", [0, 1])
def test_an_output_that_overflows_names_the_first_block_that_makes_one(block, tokenizer, text):
    model = make_model("llama", dtype=torch.float16, num_hidden_layers=3)

    def overflow(module, arguments, output):
        # Only where a sequence has more tokens than those that show how the model is called.
        return output if arguments[0].shape[1] < 16 else output * 1e6

    model.model.layers[block].mlp.register_forward_hook(overflow)
    where = rf"hidden states of the model(.|\n)*the output of block {block}\n(.|\n)*--dtype bfloat16"
    with pytest.raises(TrimPruneError, match=where):
        prune(model, BASE | {"score": "magnitude"}, [text], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seqlen": 65}, r"longer than the model's context(.|\n)*at most 64(.|\n)*65"),
        ({"tokens_per_sequence": 17}, r"more search tokens per sequence(.|\n)*at most 16(.|\n)*17"),
        ({"samples": 4000}, r"too little calibration text(.|\n)*64000 tokens(.|\n)*6000 tokens: 375 sequences"),
        ({"dtype": "bfloat16"}, r"a model object is computed as it is(.|\n)*model\.to"),
        ({"device": "cuda:9"}, r"device 'cuda:9' cannot be used"),
        ({"device": "toaster"}, r"device 'toaster' cannot be used"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_recipe_that_does_not_suit_the_model_is_refused(change, message, tokenizer, text):
    with pytest.raises(TrimPruneError, match=message):
        prune(make_model("llama"), BASE | change, [text], tokenizer=tokenizer)


def test_missing_text_is_an_error_that_names_who_needs_it():
    with pytest.raises(TrimPruneError, match=r"text is missing(.|\n)*score 'magnitude', .*rows 'trim', solver"):
        prune(make_model("llama"), {"sparsity": 0.5, "score": "magnitude"})


def test_a_model_object_needs_its_tokenizer_for_text(text):
    with pytest.raises(TrimPruneError, match="needs its tokenizer"):
        prune(make_model("llama"), BASE, [text])


def test_a_model_given_by_name_comes_back_in_the_result(llama_folder, text):
    result = prune(llama_folder, BASE, [text])
    weights = [linear.weight for linear in result.model.modules() if isinstance(linear, torch.nn.Linear)]
    assert result.out is None
    assert sum(int((weight == 0).sum()) for weight in weights) == result.sparsity.pruned


@pytest.mark.parametrize("fails", [False, True], ids=["good run", "failed run"])
def test_every_module_is_left_in_its_mode(fails, tokenizer, text):
    model = make_model("llama").train()
    model.model.layers[0].mlp.eval()
    before = [module.training for module in model.modules()]
    if fails:
        model.model.layers[1].input_layernorm.weight.data[5] = float("nan")
        with pytest.raises(TrimPruneError):
            prune(model, BASE, [text], tokenizer=tokenizer)
    else:
        prune(model, BASE, [text], tokenizer=tokenizer)
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_pre_hooks or "forward" in module.__dict__ for module in model.modules())


class Mixed(nn.Module):
    """Beside the linears of a feed-forward part a matrix that is none: a fiftieth of the block's weights."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp, self.table = mlp, nn.Embedding(5, 32)

    def forward(self, hidden):
        return self.mlp(hidden) + self.table.weight.mean(dim=0)


def test_matrices_outside_linears_are_refused_before_any_work(tokenizer, text):
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp = Mixed(layer.mlp)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    where = (
        r"cannot be pruned(.|\n)*model\.layers\.\*\.mlp\.table\.weight \[5, 32\](.|\n)*98\.0%(.|\n)*--allow-uncovered"
    )
    with pytest.raises(TrimPruneError, match=where):
        prune(model, BASE, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_matrices_outside_linears_are_told_of_where_they_are_allowed(tokenizer, text):
    events: list[Event] = []
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp = Mixed(layer.mlp)
    recipe = BASE | {"allow_uncovered": True}
    result = prune(model, recipe, [text], tokenizer=tokenizer, on_event=events.append)
    assert [event.data["message"] for event in events if event.kind == "warning"] == result.warnings
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("2.0% of the weights of the blocks lie in no linear and stay dense")
    assert all(layer.mlp.table.weight.all() for layer in model.model.layers)


def test_vectors_do_not_count_as_uncovered(tokenizer, text):
    assert prune(make_model("qwen2"), BASE, [text], tokenizer=tokenizer).warnings == []


def test_events_tell_phases_batches_linears_and_blocks_in_order(tokenizer, text):
    events: list[Event] = []
    result = prune(make_model("llama"), BASE | {"batch_size": 3}, [text], tokenizer=tokenizer, on_event=events.append)
    kinds = [event.kind for event in events if event.kind != "warning"]
    blocks = ["block_start", *["linear"] * 7, "block"] * 2
    assert kinds == ["start", "phase", "phase", *["calibration"] * 2, "plan", *blocks, "finish"]
    blocks = [event.data for event in events if event.kind == "block"]
    assert [(data["block"], data["blocks"]) for data in blocks] == [(0, 2), (1, 2)]
    assert all(data["baseline_quality"] <= data["quality"] for data in blocks)
    names = [event.data["name"] for event in events if event.kind == "linear"]
    assert names == [linear.name for linear in result.linears]


def test_phases_are_timed(tokenizer, text):
    result = prune(make_model("llama"), BASE, [text], tokenizer=tokenizer)
    phases = {"load", "plan", "capture", "forward", "statistics", "search", "apply", "measure"}
    assert set(result.timings) == phases
    corrected = prune(make_model("llama"), BASE | {"correction": 0.5}, [text], tokenizer=tokenizer)
    assert set(corrected.timings) == phases | {"correct"}


@pytest.mark.parametrize("measured", [False, True])
def test_the_time_of_a_layer_budget_is_that_of_the_plan(measured, tokenizer, text, monkeypatch):
    monkeypatch.setattr(LAYER_BUDGETS, "_entries", dict(LAYER_BUDGETS._entries))
    seconds = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: seconds[0])

    @register_layer_budget("slow", needs=["column_energy"] if measured else [])
    def slow(request):
        seconds[0] += 100
        return [request.sparsity] * len(request.linears)

    result = prune(make_model("llama"), BASE | {"layers": "slow"}, [text], tokenizer=tokenizer)
    assert {name: value for name, value in result.timings.items() if value} == {"plan": 100}


@pytest.mark.parametrize(
    ("change", "given"),
    [({"seqlen": 65}, True), ({"tokens_per_sequence": 17}, True), ({"samples": 4000}, True), ({}, False)],
    ids=["context", "tokens per sequence", "text", "tokenizer"],
)
def test_a_failed_calibration_comes_before_the_layer_budget(change, given, tokenizer, text, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = BASE | {"layers": "alphapruning"}
    with pytest.raises(TrimPruneError, match=r"calibration|tokens per sequence"):
        prune(make_model("llama"), recipe | change, [text], tokenizer=tokenizer if given else None)
    assert not cache_file("alpha.json").exists()
    prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    assert cache_file("alpha.json").exists()


class Experts(nn.Module):
    """Its second linear is never called."""

    def __init__(self, mlp):
        super().__init__()
        self.used, self.unused = mlp, nn.Linear(4, 4)

    def forward(self, hidden):
        return self.used(hidden)


def test_a_linear_that_no_token_reaches_is_named(tokenizer, text):
    model = make_model("llama")
    for layer in model.model.layers:
        layer.mlp = Experts(layer.mlp)
    with pytest.raises(TrimPruneError, match=r"got no calibration input(.|\n)*block 0, model\.layers\.0\.mlp\.unused"):
        prune(model, BASE, [text], tokenizer=tokenizer)


def test_a_missing_text_is_found_before_the_model_is_loaded(llama_folder, monkeypatch):
    def load_nothing(*arguments, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(api, "load_model", load_nothing)
    with pytest.raises(TrimPruneError, match=r"no text at 'absent\.txt'"):
        prune(llama_folder, BASE, "absent.txt")
