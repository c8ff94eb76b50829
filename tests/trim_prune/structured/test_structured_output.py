"""What is written loads again as the same, smaller model."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import torch
from architectures import make_architecture
from safetensors.torch import load_file, save_file
from tiny_models import make_model, random_tokens, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import trim_prune
from trim_prune import StructuredRecipe, TrimPruneError, load, load_model, prune
from trim_prune.formats.convert import pack_model
from trim_prune.formats.sources import open_masks
from trim_prune.models.load import LoadedModel, Source
from trim_prune.models.staging import output_folder
from trim_prune.structured import check, run
from trim_prune.structured.plan import count_parameters, make_plan
from trim_prune.structured.save import write_smaller

RECIPE = {"params": 0.85, "samples": 8, "seqlen": 32, "repair": "affine"}
TOKENS = random_tokens(2, 24)
LOADED_BY = {
    "ragged": "trim_prune.load",
    "uniform": "transformers.AutoModelForCausalLM",
    "masked": "transformers.AutoModelForCausalLM",
}


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture
def no_check(monkeypatch):
    """Without the fresh process, which takes seconds; what it would find is compared here."""
    monkeypatch.setattr(run, "check_written", lambda *_: check.Check("", 0, 0.0))


@pytest.mark.parametrize(
    ("family", "mode", "repair"),
    [("llama", "ragged", "full"), ("qwen2", "uniform", "affine"), ("opt", "masked", "affine")],
)
def test_a_fresh_process_makes_the_same_model_of_the_folder(family, mode, repair, tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model(family), tokenizer)
    recipe = StructuredRecipe.build(RECIPE | {"preset": "slimllm", "mode": mode, "repair": repair})
    result = prune(source, recipe, [text], out=tmp_path / "out")
    assert result.check.difference == 0
    assert result.check.parameters == count_parameters(result.model) == result.parameters.pruned
    assert result.check.loaded_by == LOADED_BY[mode]
    found = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert found["check"]["difference"] == 0
    assert found["parameters"] == vars(result.parameters) | {"share": result.parameters.share}
    assert StructuredRecipe.build(found["recipe"]) == recipe
    assert found["speed"]["dense"] > 0
    assert [part["kept"] for part in found["parts"]] == [list(part.kept) for part in result.parts]
    assert (result.parameters.pruned == result.parameters.dense) == (mode == "masked")


@pytest.mark.usefixtures("no_check")
@pytest.mark.parametrize("mode", ["ragged", "uniform", "masked"])
@pytest.mark.parametrize("from_folder", [True, False], ids=["from a folder", "from memory"])
def test_every_mode_of_every_family_loads_as_what_it_was(family, mode, from_folder, tokenizer, text, tmp_path):
    model = make_model(family)
    source = save_model(tmp_path / "source", model, tokenizer) if from_folder else model
    recipe = StructuredRecipe.build(RECIPE | {"mode": mode})
    result = prune(source, recipe, [text], tokenizer=None if from_folder else tokenizer, out=tmp_path / "out")
    reloaded = [load(tmp_path / "out")]
    if mode != "ragged":
        reloaded.append(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    for other in reloaded:
        assert not other.training
        assert torch.equal(logits_of(other), logits_of(result.model))
        shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
        assert shapes == {name: parameter.shape for name, parameter in result.model.named_parameters()}
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (tmp_path / "out" / "structure.json").exists() == (mode == "ragged")
    assert not (tmp_path / "out" / "masks.safetensors").exists()


@pytest.mark.usefixtures("no_check")
def test_masked_and_ragged_compute_the_same_where_the_repair_is(tokenizer, text, family):
    # Where every consumer has a bias, or none is added, both modes repair alike.
    repair = "affine" if family in ("opt", "gpt_neox") else "none"
    results = []
    for mode in ("masked", "ragged"):
        recipe = StructuredRecipe.build(RECIPE | {"mode": mode, "repair": repair})
        results.append(prune(make_model(family), recipe, [text], tokenizer=tokenizer))
    masked, ragged = results
    assert [part.kept for part in masked.parts] == [part.kept for part in ragged.parts]
    not_zero = sum(int(parameter.count_nonzero()) for parameter in masked.model.parameters())
    assert masked.parameters.kept == not_zero == ragged.parameters.kept == ragged.parameters.pruned
    assert masked.parameters.share == ragged.parameters.share < 1
    torch.testing.assert_close(logits_of(masked.model), logits_of(ragged.model), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("no_check")
def test_what_works_on_a_folder_works_where_blocks_have_sizes_of_their_own(tokenizer, text, tmp_path, invoke):
    recipe = StructuredRecipe.build(RECIPE | {"mode": "ragged"})
    smaller = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer, out=tmp_path / "smaller")
    code, printed, _ = invoke("describe", tmp_path / "smaller", "--json")
    assert code == 0
    assert json.loads(printed)["parameters"] == smaller.parameters.pruned
    chosen = {"score": "magnitude", "rows": "uniform", "sparsity": 0.6}
    sparse = prune(tmp_path / "smaller", chosen, out=tmp_path / "sparse")
    assert "its files are special" in " ".join(sparse.warnings)
    written = dict(open_masks(tmp_path / "sparse"))
    (tmp_path / "sparse" / "masks.safetensors").unlink()
    by_zeros = dict(open_masks(tmp_path / "sparse"))
    assert written.keys() == by_zeros.keys()
    assert all(torch.equal(by_zeros[name], mask) for name, mask in written.items())
    pack_model(tmp_path / "sparse", tmp_path / "packed")
    dense, packed = load(tmp_path / "sparse"), load(tmp_path / "packed")
    assert torch.equal(logits_of(packed), logits_of(dense))
    assert not torch.equal(logits_of(dense), logits_of(smaller.model))


@pytest.mark.usefixtures("no_check")
def test_a_uniform_model_has_as_many_heads_as_its_configuration_allows(tokenizer, text, tmp_path):
    model = make_model("llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=8)
    recipe = StructuredRecipe.build(RECIPE | {"mode": "uniform", "params": 0.6})
    result = prune(model, recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert other.config.num_attention_heads in (1, 2, 4)
    assert torch.equal(logits_of(other), logits_of(result.model))
    assert abs(result.parameters.pruned - result.parameters.target) <= 2 * 8 * 3 * 64


@pytest.fixture
def check_here(monkeypatch):
    """What the fresh process would do, without its seconds."""

    def run_here(command, **_):
        with redirect_stdout(io.StringIO()) as printed:
            check.main(*command[3:])
        return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr(check, "subprocess", SimpleNamespace(run=run_here))


@pytest.mark.usefixtures("check_here")
def test_a_model_in_training_is_compared_without_dropout(tokenizer, text, tmp_path):
    model = make_model("opt").train()
    assert model.config.dropout > 0
    result = prune(model, StructuredRecipe.build(RECIPE), [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert result.check.difference == 0
    assert model.training


@pytest.mark.usefixtures("check_here")
@pytest.mark.parametrize("mode", ["ragged", "masked"])
@pytest.mark.parametrize(
    ("name", "class_"), [("llava", "AutoModelForImageTextToText"), ("gemma3-vision", "AutoModelForCausalLM")]
)
def test_a_model_that_sees_loads_as_one(name, class_, mode, tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_architecture(name), tokenizer)
    result = prune(source, StructuredRecipe.build(RECIPE | {"mode": mode}), [text], out=tmp_path / "out")
    assert result.check.difference == 0
    assert result.check.loaded_by == ("trim_prune.load" if mode == "ragged" else f"transformers.{class_}")
    assert torch.equal(logits_of(load(tmp_path / "out")), logits_of(result.model))


@pytest.mark.usefixtures("check_here")
@pytest.mark.parametrize("mode", ["ragged", "uniform", "masked"])
def test_a_model_of_compiled_blocks_is_written_as_a_plain_one(mode, tokenizer, text, tmp_path):
    model, recipe = make_model("llama"), StructuredRecipe.build(RECIPE | {"mode": mode})
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(layer)
    result = prune(model, recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    plain = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    assert result.check.difference == 0
    assert torch.equal(logits_of(load(tmp_path / "out")), logits_of(plain.model))


def test_a_folder_needs_the_tokenizer_of_a_model_object(tmp_path, leftovers):
    recipe = StructuredRecipe(params=0.85, heads="magnitude", channels="magnitude", repair="none")
    with pytest.raises(TrimPruneError, match=r"needs its tokenizer(.|\n)*tokenizer=\.\.\."):
        prune(make_model("llama"), recipe, out=tmp_path / "out")
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("no_check")
def test_weights_that_lose_digits_are_told_of(tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model("llama"), tokenizer)
    told = [
        prune(source, StructuredRecipe.build(RECIPE | {"dtype": dtype}), [text], out=tmp_path / dtype).warnings
        for dtype in ("float32", "bfloat16")
    ]
    assert told[0] == []
    assert any("stored in torch.float32 and computed in torch.bfloat16" in warning for warning in told[1])


@pytest.mark.usefixtures("no_check")
def test_the_smaller_model_is_a_smaller_file(tokenizer, text, tmp_path):
    model = make_model("llama")
    recipe = StructuredRecipe.build(RECIPE | {"params": 0.7})
    result = prune(model, recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == result.parameters.pruned


@pytest.mark.usefixtures("no_check")
@pytest.mark.parametrize("mode", ["ragged", "uniform"])
def test_a_model_is_written_in_the_type_that_it_is_stored_in(mode, tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model("llama", dtype=torch.float16), tokenizer)
    recipe = StructuredRecipe.build(RECIPE | {"mode": mode})
    result = prune(source, recipe, [text], out=tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    # Computed in float32 on a CPU, and rounded as it was stored.
    assert result.model.dtype == torch.float32
    assert torch.equal(logits_of(load(tmp_path / "out")), logits_of(result.model))
    assert load_model(tmp_path / "out", dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.usefixtures("no_check")
def test_it_writes_text_as_the_dense_model_would(tokenizer, text, tmp_path):
    model = make_model("llama")
    model.generation_config.update(max_new_tokens=7, eos_token_id=999)
    source = save_model(tmp_path / "source", model, tokenizer)
    (source / "LICENSE.md").write_text("mine")
    result = prune(source, StructuredRecipe.build(RECIPE), [text], out=tmp_path / "out")
    reloaded = load(tmp_path / "out")
    assert (reloaded.generation_config.max_new_tokens, reloaded.generation_config.eos_token_id) == (7, 999)
    written = reloaded.generate(TOKENS[:1, :5], do_sample=False, pad_token_id=0)
    assert written.shape == (1, 12)
    assert torch.equal(written, result.model.generate(TOKENS[:1, :5], do_sample=False, pad_token_id=0))
    assert (tmp_path / "out" / "LICENSE.md").read_text() == "mine"


@pytest.mark.usefixtures("no_check")
def test_tied_embeddings_are_stored_once_and_tied_again(tokenizer, text, tmp_path):
    model = make_model("llama", tie_word_embeddings=True)
    prune(model, StructuredRecipe.build(RECIPE), [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    reloaded = load(tmp_path / "out")
    assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight


@pytest.fixture(scope="module")
def ragged(tokenizer, text, tmp_path_factory):
    """A folder with a model whose blocks differ; tests must not change it."""
    folder = tmp_path_factory.mktemp("ragged") / "out"
    model = make_model("llama")
    recipe = StructuredRecipe.build(RECIPE | {"layers": "table", "table": [{"match": "*.0", "ratio": 0.1}]})
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    with output_folder(folder) as partial:
        parts = make_plan(make_model("llama"), recipe).parts
        for each, block in zip(parts, result.model.model.layers, strict=True):
            for part in each:
                object.__setattr__(part.block, "module", block)
        write_smaller(LoadedModel(result.model, tokenizer, Source("llama")), parts, "ragged", partial)
    return folder


def test_blocks_of_unlike_sizes_come_back(ragged):
    structure = json.loads((ragged / "structure.json").read_text(encoding="utf-8"))
    sizes = [(block["kv_groups"], block["channels"]) for block in structure["blocks"]]
    assert sizes[0] != sizes[1]
    for block, (groups, channels) in zip(load(ragged).model.layers, sizes, strict=True):
        assert (block.self_attn.k_proj.out_features, block.mlp.up_proj.out_features) == (groups * 8, channels)


def test_a_ragged_folder_is_evaluated_and_pruned_again_like_any_other(ragged, text, tmp_path):
    assert trim_prune.evaluate(ragged, [text], seqlen=32).perplexity > 1
    again = prune(ragged, {"sparsity": 0.5, "samples": 4, "seqlen": 16}, [text], out=tmp_path / "sparse")
    assert torch.equal(logits_of(load(tmp_path / "sparse")), logits_of(again.model))


@pytest.mark.usefixtures("no_check")
def test_a_block_with_one_kv_group_left_keeps_it_and_others_lose_theirs(ragged, text, tmp_path):
    again = prune(ragged, RECIPE | {"params": 0.8}, [text], out=tmp_path / "again")
    groups = [
        [block["kv_groups"] for block in json.loads((folder / "structure.json").read_text())["blocks"]]
        for folder in (ragged, tmp_path / "again")
    ]
    assert groups == [[2, 1], [1, 1]]
    assert torch.equal(logits_of(load(tmp_path / "again")), logits_of(again.model))
    with pytest.raises(TrimPruneError, match=r"in every block(.|\n)*multi-query attention(.|\n)*1 in all"):
        prune(tmp_path / "again", RECIPE, [text])


def test_transformers_refuses_a_ragged_folder(ragged):
    with pytest.raises(RuntimeError, match=r"size|shape|mismatch"):
        AutoModelForCausalLM.from_pretrained(ragged)


def text_with(old, new):
    def tamper(folder):
        file = folder / "structure.json"
        content = file.read_text(encoding="utf-8")
        assert old in content
        file.write_text(content.replace(old, new, 1), encoding="utf-8")

    return tamper


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_one_block(folder):
    file = folder / "structure.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"blocks": content["blocks"][:1]}), encoding="utf-8")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (text_with('"channels": ', '"channels": 1'), "the weights do not fit structure.json"),
        (text_with('"channels": ', '"channels": -'), "structure.json is not valid: blocks.0.channels"),
        (text_with('"version": 1', '"version": 2'), "structure.json is not valid: version"),
        (text_with('"format"', '"code": "import os", "format"'), "structure.json is not valid: code"),
        (text_with('"attention_bias": true', '"attention_bias": false'), r"unexpected: .*o_proj.bias"),
        (text_with("{", ""), "structure.json is not valid"),
        (without_a_tensor, r"missing: model.layers.1.mlp.up_proj.weight"),
        (with_one_block, r"does not fit config.json(.|\n)*2 blocks(.|\n)*those of 1"),
    ],
)
def test_a_damaged_folder_is_refused(tamper, message, ragged, tmp_path):
    folder = shutil.copytree(ragged, tmp_path / "damaged")
    tamper(folder)
    with pytest.raises(TrimPruneError, match=message):
        load(folder)


def test_a_folder_that_is_not_the_model_is_never_seen(tokenizer, text, tmp_path, leftovers, monkeypatch):
    def other(model, *args):
        model.model.norm.weight.data *= 2
        return check_written(model, *args)

    check_written = run.check_written
    monkeypatch.setattr(run, "check_written", other)
    with pytest.raises(TrimPruneError, match=r"a fresh process does not make(.|\n)*logits within 0.001"):
        prune(make_model("llama"), StructuredRecipe.build(RECIPE), [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_folder_that_does_not_load_is_never_seen(tokenizer, text, tmp_path, leftovers, monkeypatch):
    def damage(*args):
        (args[2] / "structure.json").write_text("{}")
        return check_written(*args)

    check_written = run.check_written
    monkeypatch.setattr(run, "check_written", damage)
    with pytest.raises(TrimPruneError, match=r"a fresh process does not make(.|\n)*structure.json is not valid"):
        prune(make_model("llama"), StructuredRecipe.build(RECIPE), [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert leftovers(tmp_path) == []
