from __future__ import annotations

import json
import re
from contextlib import nullcontext

import pytest
import torch
from architectures import ARCHITECTURES, make_architecture
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, make_model, random_tokens, save_model

from trim_prune import TrimPruneError, describe
from trim_prune.calibration.statistics import Collector
from trim_prune.describe import describe_model, report
from trim_prune.models import headers
from trim_prune.models.discover import find_blocks


@pytest.fixture(params=ARCHITECTURES)
def name(request):
    return request.param


def test_what_is_told_is_what_the_files_hold(name, tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_architecture(name), tokenizer)
    weights = load_file(folder / "model.safetensors")
    touched = [t.numel() for key, t in weights.items() if re.search(rf"{ARCHITECTURES[name].pruned}$", key)]
    found = describe(folder)
    assert found.prunable == sum(touched)
    counted = [linear for kind in found.blocks for _ in kind.blocks for linear in kind.linears]
    assert sum(linear.count * linear.shape[0] * linear.shape[1] for linear in counted) == sum(touched)
    assert found.refused == ("allow_uncovered" in ARCHITECTURES[name].options)
    assert all((linear.input is None) == linear.routed for linear in counted)
    assert found.parameters == sum(p.numel() for p in make_architecture(name).parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILIES, "phi3", "gpt2", "jamba", "llava"])
def test_shared_inputs_are_those_that_share_their_statistics(name):
    model = make_architecture(name)
    told = {index: kind for kind in describe_model(model, "").blocks for index in kind.blocks}
    for block in find_blocks(model):
        collector = Collector(block.linears, frozenset(), 1, nullcontext)
        with collector.batch(1, 8):
            model(input_ids=random_tokens(1, 8))
        letters = {linear.name: linear.input for linear in told[block.index].linears}
        for group in collector.groups():
            if not group[0].routed:
                names = {linear.name.removeprefix(f"{block.name}.") for linear in group}
                (letter,) = {letters[name] for name in names}
                assert {name for name, other in letters.items() if other == letter} == names


def test_weights_are_not_needed(tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("qwen2"), tokenizer)
    whole = describe(folder)
    (folder / "model.safetensors").unlink()
    assert describe(folder) == whole


def test_types_are_those_of_the_files(tokenizer, tmp_path):
    model = make_model("llama")
    folder = save_model(tmp_path / "model", model.to(torch.bfloat16), tokenizer)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].float()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    types = {linear.name: linear.dtype for linear in describe(folder).blocks[0].linears}
    assert types.pop("mlp.up_proj") == "float32"
    assert set(types.values()) == {"bfloat16"}


@pytest.mark.parametrize(("family", "ties"), [("gemma", 1), ("llama", 0)])
def test_ties_are_told(family, ties, tokenizer, tmp_path):
    found = describe(save_model(tmp_path / "model", make_model(family), tokenizer))
    assert found.ties == (("model.embed_tokens.weight", "lm_head.weight"),) * ties


def test_blocks_that_differ_are_told_apart_and_other_towers_named(tokenizer, tmp_path):
    hybrid = describe(save_model(tmp_path / "hybrid", make_architecture("jamba"), tokenizer))
    assert [kind.blocks for kind in hybrid.blocks] == [(0,), (1,)]
    assert {"model.layers.*.mamba.A_log", "model.layers.*.mamba.conv1d.weight"} <= {u.name for u in hybrid.uncovered}
    seeing = describe(save_model(tmp_path / "seeing", make_architecture("gemma3-vision"), tokenizer))
    assert "language_model" in seeing.path
    assert len(seeing.others) == 1
    assert "vision" in next(iter(seeing.others))


def test_a_model_whose_forward_fails_has_inputs_that_are_unknown():
    model = make_model("llama")
    model.forward = lambda **_: 1 / 0
    found = describe_model(model, "")
    assert {linear.input for linear in found.blocks[0].linears} == {None}
    assert "unknown" in report(found)


def test_of_a_hub_id_only_small_files_are_asked_for(llama_folder, monkeypatch):
    asked = []

    def download(name, patterns):
        asked.append((name, patterns))
        return llama_folder

    monkeypatch.setattr(headers, "download", download)
    assert describe("org/model").prunable == describe(llama_folder).prunable
    assert asked == [("org/model", ["*.json", "*.py"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "the model is quantised"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "no such type"}, "cannot load this model"),
    ],
    ids=["quantised", "encoder-decoder", "unknown"],
)
def test_a_model_of_another_kind_is_refused(change, message, tmp_path):
    config = make_model("llama").config.to_dict() | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrimPruneError, match=message):
        describe(tmp_path)


@pytest.mark.parametrize("name", ["absent/folder/of/model", "absent.gguf", "/nowhere"])
def test_what_is_no_model_folder_is_said_to_be_none(name):
    with pytest.raises(TrimPruneError, match="no model folder at"):
        describe(name)


def test_the_command_prints_a_report_or_json(llama_folder, invoke):
    code, printed, errors = invoke("describe", llama_folder)
    assert (code, errors) == (0, "")
    assert "coverage   100.00%" in printed
    assert "2 x LlamaDecoderLayer: block 0-1" in printed
    assert re.search(r"self_attn\.q_proj +32 +32 +float32 +a\n", printed)
    code, printed, _ = invoke("describe", llama_folder, "--json")
    facts = json.loads(printed)
    assert code == 0
    assert facts["coverage"] == 1.0
    assert facts["refused"] is False
    assert [linear["name"] for linear in facts["blocks"][0]["linears"]][:2] == ["self_attn.q_proj", "self_attn.k_proj"]


def test_the_command_says_what_prune_would_refuse(tokenizer, tmp_path, text_file, invoke):
    folder = save_model(tmp_path / "model", make_architecture("jamba"), tokenizer)
    _, printed, _ = invoke("describe", folder)
    assert "refused" in printed
    options = [folder, "--sparsity", "0.5", "--rows", "uniform", "--data", text_file, "--samples", "2", "--seqlen", "8"]
    code, _, errors = invoke("prune", *options, "--out", tmp_path / "out")
    assert code == 2
    assert "--allow-uncovered" in errors
    assert invoke("prune", *options, "--out", tmp_path / "out", "--allow-uncovered")[0] == 0
