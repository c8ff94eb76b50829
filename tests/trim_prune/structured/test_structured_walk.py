"""The walk: what each part is repaired towards, by which method it is chosen, and what each mode can hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import make_model, random_tokens

from trim_prune import StructuredRecipe, TrimPruneError, prune
from trim_prune.models.discover import find_blocks
from trim_prune.structured import choose, repair
from trim_prune.structured.parts import find_parts

PARAMS = {"params": 0.8}


def outputs_of(model, tokens, names):
    """What some modules of a model put out."""
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *args, name=name: seen.__setitem__(name, args[-1]))
        for name in names
    ]
    with torch.no_grad():
        model(input_ids=tokens)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("heads", ["pearson", "obs", "wanda", "magnitude"])
@pytest.mark.parametrize("channels", ["feature", "obs", "wanda", "magnitude"])
def test_all_methods_choose_what_the_target_asks_for(heads, channels, prune_tiny):
    found = prune_tiny("qwen2", PARAMS | {"heads": heads, "channels": channels})
    assert found.parameters.share == pytest.approx(0.8, abs=0.003)
    for part in found.parts:
        assert sorted(set(part.kept)) == list(part.kept)
        assert part.repaired_error <= part.error


@pytest.mark.parametrize("how", ["affine", "full"])
def test_a_repair_brings_every_part_nearer_to_the_whole_one(family, how, prune_tiny):
    plain, repaired = (prune_tiny(family, PARAMS | {"repair": repair}) for repair in ("none", how))
    assert all(part.repaired_error < part.error for part in repaired.parts)
    assert all(part.repaired_error == part.error for part in plain.parts)
    # The first part of both sees the same input.
    assert plain.parts[0].kept == repaired.parts[0].kept
    assert plain.parts[0].error == pytest.approx(repaired.parts[0].error)


def test_a_part_is_repaired_towards_the_whole_part_on_its_present_input(tokenizer, text):
    """The error that is told of the feed-forward part is that on the input which the pruned attention gives."""
    recipe = {"mode": "uniform", "sizes": {"kv_groups": 1, "channels": 24}, "samples": 4, "seqlen": 16}
    model, whole = make_model("llama"), make_model("llama")
    result = prune(model, StructuredRecipe.build(recipe | {"batch_size": 4}), [text], tokenizer=tokenizer)
    from trim_prune.calibration.text import open_text
    from trim_prune.calibration.tokens import calibration_tokens

    tokens = calibration_tokens(tokenizer, open_text([text]), samples=4, seqlen=16, seed=0).token_ids
    name = "model.layers.0.mlp"
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda *args: seen.append((args[1][0], args[-1])))
    with torch.no_grad():
        model(input_ids=tokens)
        handle.remove()
        outputs, wanted = seen[0][1], whole.get_submodule(name)(seen[0][0])
    lacking = float((wanted - outputs).double().square().sum() / wanted.double().square().sum())
    (part,) = [part for part in result.parts if part.block == 0 and part.kind == "feed-forward"]
    assert part.repaired_error == pytest.approx(lacking, rel=1e-3)


def test_biases_go_where_they_can_be_held(family, prune_tiny):
    had = {"opt", "gpt_neox"}
    for mode in ("ragged", "uniform", "masked"):
        found = prune_tiny(family, {"params": 0.85, "mode": mode})
        may = mode == "ragged" or family in had
        assert {part.repair for part in found.parts} == {"affine" if may else "slope"}
        for block in find_blocks(found.model):
            for part in find_parts(block, found.model.config):
                bias = part.linear(part.consumer).bias
                touched = any(p.block == block.index and p.kind == part.kind for p in found.parts)
                assert (bias is not None) == (family in had or (mode == "ragged" and touched))


def test_what_a_mode_cannot_hold_is_said_before_the_work(tokenizer, text):
    def notes(family, mode):
        events = []
        recipe = StructuredRecipe.build({"params": 0.85, "mode": mode, "samples": 4, "seqlen": 16})
        prune(make_model(family), recipe, [text], tokenizer=tokenizer, on_event=events.append)
        kinds = [event.kind for event in events]
        assert kinds.index("note") < kinds.index("calibration")
        return [event.data["message"] for event in events if event.kind == "note"]

    assert notes("llama", "ragged") == [
        "mode ragged: each block gets its own size; load it with trim_prune.load",
        "27227 of 32032 parameters are to stay; embeddings count, tied ones once",
    ]
    assert any("no intercept there" in note for note in notes("llama", "masked"))
    first, second, _, last = notes("gpt_neox", "uniform")
    assert "layer ratios cannot differ" in first
    assert "GPTNeoXConfig has no word for fewer heads" in second
    assert last == "every block keeps 4 of 4 KV groups and 8 of 48 channels"
    assert any("vLLM" in note for note in notes("qwen2", "uniform"))
    assert not any("vLLM" in note for mode in ("uniform", "ragged") for note in notes("llama", mode))


def test_heads_may_stay(prune_tiny):
    found = prune_tiny("llama", PARAMS | {"heads": "none"})
    assert {part.kind for part in found.parts} == {"feed-forward"}
    assert found.parameters.share == pytest.approx(0.8, abs=0.003)


def test_a_larger_head_share_takes_more_heads(prune_tiny):
    counts = [
        sum(part.units - len(part.kept) for part in prune_tiny("opt", PARAMS | {"head_share": share}).parts[::2])
        for share in (0.5, 1.0, 2.0)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_nothing_goes_when_all_parameters_stay(prune_tiny):
    found, model = prune_tiny("llama", {"params": 1.0, "layers": "cosine"}), make_model("llama")
    assert found.parts == []
    tokens = random_tokens(2, 16)
    with torch.no_grad():
        assert torch.equal(found.model(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_a_run_is_reproducible_and_does_not_depend_on_the_batches(prune_tiny):
    first, again, other = (
        prune_tiny("qwen2", PARAMS | {"layers": "cosine", "repair": "full", "batch_size": size}) for size in (4, 4, 3)
    )
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name
        torch.testing.assert_close(parameter, other.model.get_parameter(name), rtol=1e-3, atol=1e-3)
    assert [part.kept for part in first.parts] == [part.kept for part in other.parts]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_stay_halves(dtype, prune_tiny):
    found = prune_tiny("llama", PARAMS | {"repair": "full"}, dtype=dtype)
    assert {parameter.dtype for parameter in found.model.parameters()} == {dtype}
    assert all(part.repaired_error < part.error for part in found.parts)


def test_the_smaller_model_can_be_trained(prune_tiny):
    model = prune_tiny("llama", PARAMS).model
    model(input_ids=random_tokens(1, 8)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("module", "recipe"), [(choose, {"channels": "obs"}), (repair, {"repair": "full"})])
def test_a_fallback_is_recorded_and_told_of_once(module, recipe, prune_tiny, monkeypatch):
    factorise = module.factorise
    monkeypatch.setattr(
        module, "factorise", lambda *given: replace(factorise(*given), steps=("damping times 10", "float64"))
    )
    found = prune_tiny("llama", PARAMS | {"heads": "none"} | recipe)
    assert all(part.steps == ("damping times 10", "float64") for part in found.parts)
    assert found.warnings == ["2 of 2 parts needed a fallback, the last of which was: float64 (2); run.json names them"]


def test_nan_in_the_hidden_states_is_refused(tokenizer, text):
    model = make_model("llama")
    model.model.embed_tokens.weight.data[40:] = float("inf")
    with pytest.raises(TrimPruneError, match="NaN or infinity in the hidden states"):
        prune(model, StructuredRecipe.build(PARAMS | {"samples": 4, "seqlen": 16}), [text], tokenizer=tokenizer)
