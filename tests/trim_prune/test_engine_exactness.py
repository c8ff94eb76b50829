"""The engine against straightforward code that runs the whole model again for every block."""

from __future__ import annotations

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

from trim_kernels import unpack_bits
from trim_prune import prune
from trim_prune.calibration.text import open_text
from trim_prune.calibration.tokens import calibration_tokens
from trim_prune.solvers import SOLVERS
from trim_prune.solvers.base import Solver

SAMPLES, SEQLEN = 6, 16
BASE = {"samples": SAMPLES, "seqlen": SEQLEN, "batch_size": 4}


@pytest.fixture
def tokens(tokenizer, text):
    return calibration_tokens(tokenizer, open_text([text]), samples=SAMPLES, seqlen=SEQLEN, seed=0).token_ids


@torch.no_grad()
def inputs_of(model, names, tokens):
    """What the full model hands to some linears: [sequences, tokens, C] each."""
    seen = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name in names
    ]
    for sequence in tokens:
        model(input_ids=sequence[None])
    for handle in handles:
        handle.remove()
    # Some models flatten sequences and tokens before their feed-forward part.
    return {name: torch.cat(parts).view(*tokens.shape, -1) for name, parts in seen.items()}


def wanda_mask(weight, inputs, share):
    """True = pruned: the share of each row with the smallest abs(w) * norm of the input."""
    norms = (inputs.double().square().sum((0, 1)) / len(inputs)).sqrt().float()
    order = (weight.abs() * norms).argsort(dim=1, stable=True)
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order[:, : int(share * weight.shape[1])], True)


def prune_directly(model, tokens, groups, share):
    """Prune group after group of linears, each on the outputs of the model as pruned so far."""
    for names in groups:
        inputs = inputs_of(model, names, tokens)
        for name in names:
            weight = model.get_submodule(name).weight.data
            weight[wanda_mask(weight, inputs[name], share)] = 0


def by_block(model, family="llama"):
    names = list(linears_of(model, family))
    half = len(names) // 2
    return [names[:half], names[half:]]


def by_input(model):
    parts = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]]
    parts += [["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]]
    return [[f"model.layers.{block}.{name}" for name in part] for block in range(2) for part in parts]


@pytest.mark.parametrize("family_name", ["llama", "opt", "gpt_neox"])
def test_wanda_equals_a_direct_computation_block_by_block(family_name, tokenizer, text, tokens):
    ours, direct = make_model(family_name), make_model(family_name)
    prune(ours, {"sparsity": 0.5, "rows": "uniform", **BASE}, [text], tokenizer=tokenizer)
    prune_directly(direct, tokens, by_block(direct, family_name), 0.5)
    for name, tensor in direct.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_recapture_equals_a_direct_computation_input_by_input(tokenizer, text, tokens):
    ours, direct = make_model("llama"), make_model("llama")
    prune(ours, {"sparsity": 0.5, "rows": "uniform", "recapture": True, **BASE}, [text], tokenizer=tokenizer)
    prune_directly(direct, tokens, by_input(direct), 0.5)
    for name, tensor in direct.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_recapture_changes_only_what_has_pruned_linears_before_it(tokenizer, text):
    plain, again = make_model("llama"), make_model("llama")
    prune(plain, {"sparsity": 0.7, "rows": "uniform", **BASE}, [text], tokenizer=tokenizer)
    prune(again, {"sparsity": 0.7, "rows": "uniform", "recapture": True, **BASE}, [text], tokenizer=tokenizer)
    names = [name for group in by_input(plain)[:4] for name in group]
    equal = {name: torch.equal(plain.get_submodule(name).weight, again.get_submodule(name).weight) for name in names}
    assert [name for name, same in equal.items() if same] == by_input(plain)[0]


@pytest.mark.parametrize("rows", ["uniform", "trim", "whole"])
def test_the_batch_size_does_not_change_the_masks(rows, tokenizer, text):
    results = [
        prune(
            make_model("llama"),
            {"sparsity": 0.6, "rows": rows, **BASE, "batch_size": size},
            [text],
            tokenizer=tokenizer,
        )
        for size in (1, 4, 6)
    ]
    for result in results[1:]:
        assert all(torch.equal(mask, results[0].masks[name]) for name, mask in result.masks.items())


@pytest.mark.parametrize("rows", ["uniform", "trim", "whole"])
def test_the_same_recipe_twice_gives_the_same_weights(rows, tokenizer, text):
    models = [make_model("qwen2"), make_model("qwen2")]
    for model in models:
        prune(model, {"sparsity": 0.6, "rows": rows, **BASE}, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, models[1].state_dict()[name]) for name, tensor in models[0].state_dict().items())


def test_another_seed_gives_another_mask(tokenizer, text):
    first, second = (
        prune(make_model("llama"), {"sparsity": 0.6, "seed": seed, **BASE}, [text], tokenizer=tokenizer)
        for seed in (0, 1)
    )
    assert first.sample_ids != second.sample_ids
    assert any(not torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", ["uniform", "trim"])
def test_models_of_every_type_are_pruned_as_they_are(dtype, rows, tokenizer, text):
    model = make_model("llama", dtype=dtype)
    result = prune(model, {"sparsity": 0.5, "rows": rows, "device": "cpu", **BASE}, [text], tokenizer=tokenizer)
    weights = [linear.weight for linear in linears_of(model, "llama").values()]
    assert {weight.dtype for weight in model.state_dict().values()} == {dtype}
    # A few drawn weights may have been rounded to zero before.
    assert sum(map(zeros, weights)) == result.sparsity.pruned + sum(linear.kept_zeros for linear in result.linears)
    assert result.sparsity.of_prunable == 0.5


def test_masks_say_which_weights_are_zero(tokenizer, text):
    model = make_model("gpt_neox")
    result = prune(model, {"sparsity": 0.6, **BASE}, [text], tokenizer=tokenizer)
    assert set(result.masks) == {f"{name}.weight" for name in linears_of(model, "gpt_neox")}
    for name, mask in result.masks.items():
        weight = model.state_dict()[name]
        assert torch.equal(unpack_bits(mask, weight.shape[1]), weight != 0)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_trim_searches_on_the_asked_number_of_tokens(count, tokenizer, text, tokens, monkeypatch):
    import trim_kernels

    seen = []
    search = trim_kernels.allocate_rows
    monkeypatch.setattr(trim_kernels, "allocate_rows", lambda w, x, *a, **k: seen.append(x) or search(w, x, *a, **k))
    model = make_model("llama")
    expected = inputs_of(model, ["model.layers.0.self_attn.q_proj"], tokens)["model.layers.0.self_attn.q_proj"]
    prune(model, {"sparsity": 0.5, "tokens_per_sequence": count, **BASE}, [text], tokenizer=tokenizer)
    positions = [(k + 1) * SEQLEN // count - 1 for k in range(count)]
    torch.testing.assert_close(seen[0], expected[:, positions].reshape(-1, expected.shape[-1]).t())


def test_solvers_compute_in_full_float32_whatever_the_process_has_chosen(tokenizer, text, monkeypatch):
    mask, found = SOLVERS.get("mask"), []

    def looking(request):
        found.append(torch.backends.mkldnn.matmul.fp32_precision)
        return mask.function(request)

    monkeypatch.setitem(SOLVERS._entries, "looking", Solver(looking, frozenset()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    chosen = torch.backends.mkldnn.matmul.fp32_precision
    prune(make_model("llama"), BASE | {"sparsity": 0.5, "solver": "looking"}, [text], tokenizer=tokenizer)
    assert torch.backends.mkldnn.matmul.fp32_precision == chosen != "ieee"
    torch.set_float32_matmul_precision(before)
    assert set(found) == {"ieee"}
