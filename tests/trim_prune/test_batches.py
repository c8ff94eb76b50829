"""Batches that do not fit on the device become smaller, and nothing is lost or counted twice."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model

from trim_prune import prune

BASE = {"sparsity": 0.5, "samples": 7, "seqlen": 16, "batch_size": 4}
RECIPES = {
    "trim": {"tokens_per_sequence": 2},
    "gram": {"score": "obs", "rows": "uniform", "solver": "sparsegpt", "recapture": True},
    "two models": {"correction": 0.5},
    "layers by text": {"layers": "owl"},
    "optimal": {"rows": "optimal", "layers": "optimal"},
}


def small_device(model, largest, part):
    """A model in a part of whose blocks more sequences than the largest number do not fit."""

    def fail(_, arguments):
        if arguments[0].shape[0] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for layer in model.model.layers:
        layer.get_submodule(part).register_forward_pre_hook(fail)
    return model


@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.down_proj"])
@pytest.mark.parametrize("largest", [1, 2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_batches_are_halved_until_they_fit(recipe, largest, part, tokenizer, text):
    recipe = BASE | RECIPES[recipe]
    small = small_device(make_model("llama"), largest, part)
    result = prune(small, recipe, [text], tokenizer=tokenizer)
    whole = make_model("llama")
    expected = prune(whole, recipe | {"batch_size": 2 if largest > 1 else 1}, [text], tokenizer=tokenizer)
    assert result.masks.keys() == expected.masks.keys()
    assert all(torch.equal(mask, expected.masks[name]) for name, mask in result.masks.items())
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in small.state_dict().items())
    assert any("from here on 2 sequences at most" in warning for warning in result.warnings)
    assert any("from here on 1 sequences at most" in warning for warning in result.warnings) == (largest == 1)


def test_one_sequence_that_does_not_fit_is_an_error(tokenizer, text):
    small = small_device(make_model("llama"), 0, "mlp.down_proj")
    with pytest.raises(torch.OutOfMemoryError):
        prune(small, BASE, [text], tokenizer=tokenizer)


@pytest.mark.parametrize(("recipe", "call"), [("trim", 5), ("two models", 7)])
def test_memory_may_run_out_on_the_way_through_a_block(recipe, call, tokenizer, text):
    model, whole, calls = make_model("llama"), make_model("llama"), []

    def fail_once(module, arguments):
        calls.append(module)
        # After one to see how blocks are called, and those that collect; the first batch is through.
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[0].mlp.register_forward_pre_hook(fail_once)
    recipe = BASE | RECIPES[recipe]
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    prune(whole, recipe, [text], tokenizer=tokenizer)
    assert len(result.warnings) == 1
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in model.state_dict().items())
