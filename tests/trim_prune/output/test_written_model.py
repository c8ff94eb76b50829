"""What is in an output folder."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, linears_of, make_model, random_tokens, save_model, zeros
from transformers import AutoModelForCausalLM, AutoTokenizer

import trim_prune
from trim_kernels import unpack_bits
from trim_prune import prune

BASE = {"sparsity": 0.6, "samples": 4, "seqlen": 16}
REPORTS = ("report.html", "report.json", "README.md")
OURS = ("masks.safetensors", "run.json", "layers.yaml", "events.jsonl", *REPORTS)


def stored(folder):
    """Every tensor of a model folder."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
    return {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}


@torch.no_grad()
@pytest.mark.parametrize("from_folder", [True, False], ids=["from a folder", "from memory"])
def test_the_written_model_computes_what_the_pruned_one_does(family, from_folder, tokenizer, text, tmp_path):
    in_memory = make_model(family)
    source = save_model(tmp_path / "source", in_memory, tokenizer) if from_folder else make_model(family)
    extra = {} if from_folder else {"tokenizer": tokenizer}
    prune(in_memory, BASE, [text], tokenizer=tokenizer)
    prune(source, BASE, [text], out=tmp_path / "out", **extra)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = random_tokens(2, 24)
    assert torch.equal(reloaded(input_ids=tokens).logits, in_memory(input_ids=tokens).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("from_folder", [True, False], ids=["from a folder", "from memory"])
def test_tied_embeddings_are_stored_once(from_folder, tokenizer, text, tmp_path):
    model = make_model("gemma")
    source = save_model(tmp_path / "source", model, tokenizer) if from_folder else model
    prune(source, BASE, [text], tokenizer=tokenizer, out=tmp_path / "out")
    names = stored(tmp_path / "out")
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


@pytest.fixture(scope="module")
def pruned(llama_folder, text, tmp_path_factory):
    """A pruned folder and the result that went with it."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    return out, prune(llama_folder, BASE | {"tokens_per_sequence": 2}, [text], out=out)


def test_configuration_and_tokenizer_are_copied_to_the_byte(pruned, llama_folder):
    out, _ = pruned
    weights = {"model.safetensors", "model.safetensors.index.json"}
    source = {path.name for path in llama_folder.iterdir()} - weights
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= source
    assert {path.name for path in out.iterdir()} == source | weights | set(OURS)
    for name in source:
        assert (out / name).read_bytes() == (llama_folder / name).read_bytes()


def test_what_other_tools_need_of_the_model_is_copied(llama_folder, text, tmp_path):
    source = shutil.copytree(llama_folder, tmp_path / "source")
    names = ["qwen.tiktoken", "preprocessor_config.json", "additional_chat_templates/tools.jinja"]
    (source / "additional_chat_templates").mkdir()
    for name in names:
        (source / name).write_text(name)
    prune(source, BASE, [text], out=tmp_path / "out")
    assert [(tmp_path / "out" / name).read_text() for name in names] == names


def test_masks_are_the_zeros_of_the_written_weights(pruned):
    out, result = pruned
    weights, masks = stored(out), load_file(out / "masks.safetensors")
    assert masks.keys() == result.masks.keys() == {f"{linear.name}.weight" for linear in result.linears}
    for name, mask in masks.items():
        assert mask.dtype == torch.uint8
        assert torch.equal(unpack_bits(mask, weights[name].shape[1]), weights[name] != 0)


def test_masks_carry_their_format_and_shapes(pruned):
    out, result = pruned
    with safe_open(out / "masks.safetensors", "pt") as file:
        about = json.loads(file.metadata()["trim-prune-masks"])
    assert about["version"] == "2"
    assert about["transposed"] == []
    assert about["shapes"] == {f"{linear.name}.weight": list(linear.shape) for linear in result.linears}


def test_the_sparsity_of_the_written_weights_is_exact(pruned):
    out, result = pruned
    weights = stored(out)
    names = [f"{name}.weight" for name in linears_of(make_model("llama"), "llama")]
    total = sum(weights[name].numel() for name in names)
    assert sum(zeros(weights[name]) for name in names) == round(0.6 * total) == result.sparsity.pruned


def test_run_json_tells_everything(pruned, llama_folder):
    out, result = pruned
    run = json.loads((out / "run.json").read_text())
    assert run["version"] == 1
    assert run["model"] == str(llama_folder)
    assert trim_prune.Recipe.build(run["recipe"]) == result.recipe
    assert run["seed"] == 0
    assert run["calibration"] == {
        "text": "1 strings",
        "sequences": 4,
        "seqlen": 16,
        "windows": 375,
        "sample_ids": result.sample_ids,
    }
    assert run["sparsity"]["pruned"] == result.sparsity.pruned
    assert run["sparsity"]["of_prunable"] == pytest.approx(0.6, abs=1e-4)
    assert [linear["name"] for linear in run["linears"]] == [linear.name for linear in result.linears]
    for linear, expected in zip(run["linears"], result.linears, strict=True):
        assert linear["prune_count"] == expected.prune_count
        assert linear["quality"] == expected.quality
        assert linear["sparsity"] == expected.sparsity
    phases = {"load", "plan", "capture", "forward", "statistics", "search", "apply", "measure", "write"}
    assert set(run["seconds"]) == phases
    assert set(run["memory"]["by_phase"]) <= phases
    assert all(place["process"] <= run["memory"]["peak"]["process"] for place in run["memory"]["by_phase"].values())
    assert (run["hub_id"], run["license"], run["output_error_inputs"]) == (None, None, "search_inputs")
    assert run["versions"]["torch"] == torch.__version__
    assert run["versions"]["trim_kernels"] == trim_prune.__version__
    assert {"python", "transformers", "safetensors", "tokenizers", "numpy"} <= run["versions"].keys()
    assert run["machine"]["device"] == "cpu"


def test_every_line_of_the_event_log_is_json(pruned):
    lines = [json.loads(line) for line in (pruned[0] / "events.jsonl").read_text().splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["start", "finish"]
    assert [line["name"] for line in lines if line["event"] == "phase"] == ["load", "prune", "write"]
    assert sum(line["event"] == "linear" for line in lines) == 14
    assert all(a["time"] <= b["time"] for a, b in pairwise(lines))


@pytest.mark.parametrize("metric", ["psnr", "snr", "mse"])
def test_the_log_and_run_json_are_strict_json_even_where_a_quality_is_infinite(metric, llama_folder, text, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    prune(llama_folder, BASE | {"sparsity": 0, "trim": {"layer_metric": metric}}, [text], out=tmp_path / "out")
    json.loads((tmp_path / "out" / "run.json").read_text(), parse_constant=refuse)
    for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_the_same_recipe_twice_gives_the_same_bytes(pruned, llama_folder, text, tmp_path):
    out, result = pruned
    prune(llama_folder, result.recipe, [text], out=tmp_path / "again")
    for name in {path.name for path in out.iterdir()} - {"run.json", "events.jsonl", "report.html", "README.md"}:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_a_pruned_folder_can_be_pruned_again(pruned, text, tmp_path):
    out, _ = pruned
    result = prune(out, BASE | {"sparsity": 0.8}, [text], out=tmp_path / "again")
    weights = stored(tmp_path / "again")
    assert sum(zeros(weights[f"{linear.name}.weight"]) for linear in result.linears) == result.sparsity.pruned


def test_a_sharded_checkpoint_stays_sharded(tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model("llama"), tokenizer, max_shard_size="40KB")
    prune(source, BASE, [text], out=tmp_path / "out")
    before, after = ({p.name for p in folder.glob("model*")} for folder in (source, tmp_path / "out"))
    assert before == after
    assert len(before) > 2
    index = "model.safetensors.index.json"
    before, after = (json.loads((folder / index).read_text()) for folder in (source, tmp_path / "out"))
    assert before["weight_map"] == after["weight_map"]
    model = make_model("llama")
    prune(model, BASE, [text], tokenizer=tokenizer)
    written = stored(tmp_path / "out")
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "odd", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"], ids=["left alone", "pruned"]
)
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_every_tensor_keeps_its_stored_type_and_its_bits(odd, dtype, tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model("llama", dtype=torch.bfloat16), tokenizer)
    tensors = load_file(source / "model.safetensors")
    tensors[odd] = make_model("llama", seed=1).state_dict()[odd]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    result = prune(source, BASE | {"dtype": dtype}, [text], out=tmp_path / "out")
    written = stored(tmp_path / "out")
    assert {name: tensor.dtype for name, tensor in written.items()} == {n: t.dtype for n, t in tensors.items()}
    assert written[odd].dtype == torch.float32
    for name, tensor in tensors.items():
        kept = torch.ones_like(tensor, dtype=torch.bool)
        if name in result.masks:
            kept = unpack_bits(result.masks[name], tensor.shape[1])
            assert not written[name][~kept].any()
        assert torch.equal(written[name][kept], tensor[kept])


def test_float16_is_computed_in_float32_on_a_cpu_and_written_as_float16(tokenizer, text, tmp_path):
    source = save_model(tmp_path / "source", make_model("llama", dtype=torch.float16), tokenizer)
    result = prune(source, BASE | {"device": "cpu"}, [text], out=tmp_path / "out")
    assert "stored in float16 and computed in float32" in "".join(result.warnings)
    assert {tensor.dtype for tensor in stored(tmp_path / "out").values()} == {torch.float16}


@torch.no_grad()
def test_a_checkpoint_of_the_bare_model_keeps_its_names(tokenizer, text, tmp_path):
    model = make_model("llama", tie_word_embeddings=True)
    model.config.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    save_file(model.model.state_dict(), tmp_path / "source" / "model.safetensors", {"format": "pt"})
    prune(tmp_path / "source", BASE, [text], out=tmp_path / "out")
    written = stored(tmp_path / "out")
    assert written.keys() == model.model.state_dict().keys()
    prune(model, BASE, [text], tokenizer=tokenizer)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = random_tokens(1, 20)
    assert torch.equal(reloaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_nothing_foreign_is_written_into_the_configuration_of_a_model_from_memory(tokenizer, text, tmp_path):
    for family in FAMILIES:
        model = make_model(family)
        model.save_pretrained(tmp_path / family)
        prune(model, BASE, [text], tokenizer=tokenizer, out=tmp_path / f"{family}-out")
        ours, plain = (json.loads((tmp_path / name / "config.json").read_text()) for name in (f"{family}-out", family))
        assert ours == plain
