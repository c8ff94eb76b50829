"""Models that torch.compile or PEFT have wrapped are pruned as what is inside."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import linears_of, make_model, random_tokens, zeros

from trim_prune import TrimPruneError, prune
from trim_prune.models.discover import find_blocks
from trim_prune.models.load import load_model
from trim_prune.models.wrappers import plain_state, unwrap

RECIPE = {"sparsity": 0.537, "rows": "uniform", "samples": 6, "seqlen": 16}
GRAM = RECIPE | {"solver": "sparsegpt", "rows": "optimal"}
EVERY = ("q_proj", "v_proj", "down_proj")


def compiled(model):
    return torch.compile(model)


def compiled_in_place(model):
    model.compile()
    return model


def compiled_by_block(model):
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(layer)
    return model


def with_adapters(model, seed=5):
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=3, target_modules=list(EVERY), init_lora_weights=False)
    with warnings.catch_warnings():
        # It asks for what the newest transformers is about to rename.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config).eval()


WRAPPERS = [compiled, compiled_in_place, compiled_by_block, with_adapters]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_the_blocks_and_linears_of_a_wrapped_model_have_their_plain_names(wrap):
    model = make_model("llama")
    expected = linears_of(model, "llama")
    blocks = find_blocks(wrap(model))
    prefix = blocks[0].name.removesuffix("model.layers.0")
    found = {linear.name.removeprefix(prefix): linear.module for block in blocks for linear in block.linears}
    assert found == expected
    state = plain_state(unwrap(model))
    assert all(torch.equal(state[f"{name}.weight"], module.weight) for name, module in expected.items())
    assert not any("lora" in name or "base_layer" in name or "_orig_mod" in name for name in state)


@pytest.mark.parametrize("recipe", [RECIPE, GRAM], ids=["wanda", "gram"])
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_is_pruned_and_written_as_the_plain_one(wrap, recipe, tokenizer, text, tmp_path):
    model = make_model("llama")
    linears = linears_of(model, "llama")
    total = sum(linear.weight.numel() for linear in linears.values())
    wrapped = wrap(model)
    result = prune(wrapped, recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert result.sparsity.pruned == round(0.537 * total) == sum(zeros(linear.weight) for linear in linears.values())
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == make_model("llama").state_dict().keys()
    assert load_file(tmp_path / "out" / "masks.safetensors").keys() == {f"{name}.weight" for name in linears}
    for name, linear in linears.items():
        assert torch.equal(written[f"{name}.weight"], linear.weight)
    assert load_model(tmp_path / "out").model(input_ids=random_tokens(1, 8)).logits.isfinite().all()


@pytest.mark.parametrize("wrap", WRAPPERS[:3])
def test_what_is_compiled_is_pruned_to_the_bit_as_what_is_not(wrap, tokenizer, text):
    plain, other = make_model("llama"), make_model("llama")
    linears = linears_of(other, "llama")
    prune(plain, RECIPE, [text], tokenizer=tokenizer)
    prune(wrap(other), RECIPE, [text], tokenizer=tokenizer)
    assert all(torch.equal(linear.weight, linears[name].weight) for name, linear in linears_of(plain, "llama").items())


def test_adapters_are_seen_by_the_statistics_stay_as_they_are_and_are_told_of(tokenizer, text):
    plain, inner = make_model("llama"), make_model("llama")
    linears = linears_of(inner, "llama")
    wrapped = with_adapters(inner)
    adapters = {name: p.clone() for name, p in wrapped.named_parameters() if "lora" in name}
    prune(plain, RECIPE, [text], tokenizer=tokenizer)
    result = prune(wrapped, RECIPE, [text], tokenizer=tokenizer)
    assert any("adapters stay dense" in warning for warning in result.warnings)
    assert adapters
    assert all(torch.equal(wrapped.get_parameter(name), adapter) for name, adapter in adapters.items())
    # The first linears get the same inputs with or without adapters, the last ones do not.
    name = "model.layers.{}.{}".format
    assert torch.equal(
        plain.get_submodule(name(0, "self_attn.q_proj")).weight, linears[name(0, "self_attn.q_proj")].weight
    )
    assert not torch.equal(
        plain.get_submodule(name(1, "mlp.down_proj")).weight, linears[name(1, "mlp.down_proj")].weight
    )


def test_correction_goes_through_adapters(tokenizer, text):
    wrapped = with_adapters(make_model("llama"))
    result = prune(wrapped, GRAM | {"correction": 0.4}, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.537 * result.sparsity.prunable_weights)


def test_whole_heads_and_channels_do_not_go_from_under_adapters(tokenizer, text):
    with pytest.raises(TrimPruneError, match=r"adapters(.|\n)*merge_and_unload"):
        prune(
            with_adapters(make_model("llama")), {"params": 0.8, "samples": 4, "seqlen": 16}, [text], tokenizer=tokenizer
        )
