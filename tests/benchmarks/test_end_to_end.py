"""A whole prune of a model of any sizes, with random weights, and what is reckoned from it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import end_to_end, random_models
from benchmarks.random_models import CONFIGS, write_model
from benchmarks.shapes import GPU_LINEARS
from trim_prune.estimate.rates import Rates
from trim_prune.models.headers import outline_model

TINY = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(TINY))
    return file


def run(config, out, **options):
    values = {"blocks": 3, "sparsity": 0.5, "samples": 4, "seqlen": 16, "score": "wanda", "rows": "trim"}
    end_to_end.main(str(config), **(values | {"device": "cpu", "dtype": "bfloat16"} | options), out=out)
    return json.loads(out.read_text())


def test_some_blocks_of_a_configuration_are_pruned_and_all_reckoned(config, tmp_path, monkeypatch):
    rates = Rates(1e9, 1e9, 1e9, 1e9, 1e9)
    monkeypatch.setattr(end_to_end, "measure_rates", lambda *_: rates)
    monkeypatch.setattr("trim_prune.estimate.plan.measure_rates", lambda *_: rates)
    found = run(config, tmp_path / "result.json")
    weights = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    assert (found["prunable_weights"], found["pruned"]) == (weights, weights // 2)
    assert (found["blocks"]["made"], found["blocks"]["of"], len(found["blocks"]["seconds"])) == (3, 12, 3)
    seconds = found["seconds"]
    assert {"load", "plan", "capture", "forward", "search", "apply", "write", "total"} <= seconds.keys()
    assert sum(value for phase, value in seconds.items() if phase != "total") == pytest.approx(seconds["total"])
    beside = seconds["total"] - seconds["load"] - sum(found["blocks"]["seconds"])
    write_model(tmp_path, TINY, 3, torch.bfloat16, torch.device("cpu"))
    outside, block = (tmp_path.joinpath(f"model-0000{number}.safetensors").stat().st_size for number in (0, 1))
    growth = (outside + 12 * block) / (outside + 3 * block)
    reckoned = 12 * found["blocks"]["seconds"][1] + beside * growth
    assert found["whole"]["seconds_without_loading"] == pytest.approx(reckoned)
    assert found["whole"]["tokens_per_second"] == pytest.approx(64 / reckoned)
    # All blocks collect, and all but the last propagate.
    operations = 64 * (2 * weights + 2 * 16 * 32 * 3) * (1 + 2 / 3)
    assert found["forward"]["operations"] == pytest.approx(operations)
    assert found["forward"]["percent_of_product"] == pytest.approx(100 * operations / seconds["forward"] / 1e9)
    assert found["estimated"]["peak"]["host"] > 0
    assert found["peak_bytes"]["process"] > 0


def test_a_random_model_has_a_file_for_each_block_and_is_always_the_same(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        write_model(folder, TINY, 2, torch.float32, torch.device("cpu"))
    files = sorted(path.name for path in folders[0].glob("*.safetensors"))
    assert files == ["model-00000.safetensors", "model-00001.safetensors", "model-00002.safetensors"]
    one, two = (load_file(folder / files[1]) for folder in folders)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert all(name.startswith("model.layers.0.") for name in one)
    assert one["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_sizes_of_the_named_models_are_those_of_the_other_benchmarks(name, tmp_path):
    # The model of the whole size, without a weight.
    monkey = tmp_path / "config.json"
    monkey.write_text(json.dumps(CONFIGS[name] | {"num_hidden_layers": 1}))
    model, _ = outline_model(tmp_path, name, dtype="auto", device=torch.device("cpu"), trust_remote_code=False)
    shapes = {(linear.rows, linear.columns) for linear in GPU_LINEARS}
    layer = model.model.layers[0]
    assert {tuple(p.shape) for p in layer.parameters() if p.dim() == 2} <= shapes


def test_a_text_has_a_token_for_every_byte():
    assert len(random_models.random_text(1000)) >= 1000
