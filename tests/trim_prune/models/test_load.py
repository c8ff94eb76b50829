from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, load_model
from trim_prune.models.load import HUB_IGNORED, HUB_PATTERNS, resolve


@pytest.fixture
def copied(llama_folder, tmp_path):
    return shutil.copytree(llama_folder, tmp_path / "model")


def test_a_folder_is_loaded_as_stored(llama_folder):
    loaded = load_model(llama_folder)
    assert all(torch.equal(t, loaded.model.state_dict()[n]) for n, t in make_model("llama").state_dict().items())
    assert not loaded.model.training
    assert loaded.warnings == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_asked_type_is_used(dtype, llama_folder):
    assert load_model(llama_folder, dtype=dtype).model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_float16_becomes_float32_only_for_the_cpu(device, tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama", dtype=torch.float16), tokenizer)
    loaded = load_model(folder, device=device)
    assert loaded.model.dtype == (torch.float32 if device == "cpu" else torch.float16)
    assert len(loaded.warnings) == (device == "cpu")


def test_only_the_weights_that_transformers_reads_are_downloaded():
    names = [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "qwen.tiktoken",
        "additional_chat_templates/tools.jinja",
    ]
    others = ["consolidated.safetensors", "original/params.json", "original/tokenizer.model", "pytorch_model.bin"]
    found = filter_repo_objects([*names, *others], allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_IGNORED)
    assert list(found) == names


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("flaot32", "unknown dtype 'flaot32'(.|\n)*did you mean 'float32'"),
        ("Tensor", "unknown dtype"),
        ("int8", "auto, "),
    ],
)
def test_an_unknown_type_is_refused(dtype, message, llama_folder):
    with pytest.raises(TrimPruneError, match=message):
        load_model(llama_folder, dtype=dtype)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(TrimPruneError, match=r"config\.json is missing(.|\n)*an empty folder"):
        load_model(tmp_path)


def test_pickled_weights_are_never_opened(copied):
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(
        TrimPruneError, match=r"no safetensors weights(.|\n)*pytorch_model\.bin(.|\n)*pickle can run any code"
    ):
        load_model(copied)


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "a/b/c", "~/nowhere-at-all"])
def test_a_missing_folder_is_said_to_be_missing(name):
    with pytest.raises(TrimPruneError, match=r"no model at(.|\n)*a model folder"):
        resolve(name)


def test_a_hub_id_that_cannot_be_fetched_is_explained():
    with pytest.raises(
        TrimPruneError, match=r"'some-org/some-model' is neither a local folder nor(.|\n)*check the name"
    ):
        resolve("some-org/some-model")


def test_a_truncated_checkpoint_is_reported(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TrimPruneError, match=r"cannot load this model(.|\n)*the files are complete"):
        load_model(copied)


def test_a_missing_shard_is_reported(tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama"), tokenizer, max_shard_size="40KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(TrimPruneError, match="cannot load this model"):
        load_model(folder)


@pytest.mark.parametrize(
    "content", ["{oops", "[]", '{"model_type": "no-such-type"}'], ids=["not JSON", "list", "unknown type"]
)
def test_a_bad_configuration_is_reported(content, copied):
    (copied / "config.json").write_text(content)
    with pytest.raises(TrimPruneError, match="cannot load this model"):
        load_model(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "the model is quantised"),
        ({"model_type": "t5", "is_encoder_decoder": True}, r"encoder-decoder models are not supported(.|\n)*t5"),
    ],
    ids=["quantised", "encoder-decoder"],
)
def test_models_of_another_kind_are_refused(change, message, copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(TrimPruneError, match=message):
        load_model(copied)


def test_a_gguf_file_is_found_in_the_folder_or_anywhere(llama_folder, tmp_path):
    inside, outside = tmp_path / "in.gguf", tmp_path / "elsewhere" / "out.gguf"
    outside.parent.mkdir()
    for file in (inside, outside):
        file.write_bytes(b"GGUF")
    assert resolve(tmp_path, "in.gguf").gguf == inside
    assert resolve(tmp_path, outside).gguf == outside
    assert resolve(inside).gguf == inside
    assert resolve(inside).tokenizer is None
    assert resolve(llama_folder, outside).tokenizer == llama_folder


@pytest.mark.parametrize(
    ("model", "gguf", "message"),
    [
        (".", "missing.gguf", r"no such GGUF file(.|\n)*missing\.gguf or missing\.gguf"),
        ("missing.gguf", None, "no such GGUF file"),
        ("no-folder", "missing.gguf", r"no model folder at 'no-folder'"),
    ],
)
def test_a_missing_gguf_file_is_named(model, gguf, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrimPruneError, match=message):
        resolve(model, gguf)


@pytest.mark.parametrize("converted", [True, False])
def test_only_a_converted_tokenizer_is_compared_with_the_file(
    converted, llama_folder, tokenizer, tmp_path, monkeypatch
):
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: make_model("llama"))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer)
    monkeypatch.setattr("trim_prune.models.load.tokenizer_problems", lambda *_: ["converted badly"])
    loaded = load_model(tmp_path if converted else llama_folder, gguf=file)
    assert loaded.warnings == (["converted badly"] if converted else [])


def test_a_dequantised_model_can_be_saved_by_transformers(tokenizer, tmp_path, monkeypatch):
    model = make_model("llama")
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gguf"))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: model)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer)
    monkeypatch.setattr("trim_prune.models.load.tokenizer_problems", lambda *_: [])
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match="quantized"):
        model.save_pretrained(tmp_path / "out")
    load_model(tmp_path / "model.gguf").model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"not a model at all" * 9])
def test_a_broken_gguf_file_is_reported(content, tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(TrimPruneError, match=r"cannot load this GGUF file(.|\n)*broken\.gguf"):
        load_model(file)
