"""A model whose blocks stay in the files is the model that transformers loads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model, random_tokens, save_model

from trim_prune import TrimPruneError, load_model
from trim_prune.models.capture import Capture
from trim_prune.models.device import on_device, parameters_of
from trim_prune.models.discover import find_blocks


@pytest.fixture
def saved(family, tokenizer, tmp_path):
    """A folder of many shards."""

    def save(**options):
        return save_model(tmp_path / "model", make_model(family, **options), tokenizer, max_shard_size="20KB")

    return save


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_every_weight_has_the_bits_that_transformers_loads(stored, dtype, saved):
    folder = saved(dtype=stored)
    whole = load_model(folder, dtype=dtype, device="cpu")
    opened = load_model(folder, dtype=dtype, device="cpu", hold=False)
    blocks = find_blocks(opened.model, opened.store)
    expected = dict(whole.model.named_parameters())
    assert opened.warnings == whole.warnings
    assert all(parameter.is_meta for block in blocks for parameter in block.module.parameters())
    for name, parameter in parameters_of(opened.model, blocks):
        wanted = expected.pop(name)
        assert parameter.dtype == wanted.dtype
        assert torch.equal(parameter, wanted)
    assert not expected
    buffers = dict(opened.model.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in whole.model.named_buffers())
    assert all(parameter.is_meta for block in blocks for parameter in block.module.parameters())


@torch.no_grad()
def test_the_captured_model_computes_the_same(saved):
    folder, batch = saved(), random_tokens(2, 11)
    whole, opened = load_model(folder).model, load_model(folder, hold=False)
    blocks = find_blocks(opened.model, opened.store)
    capture = Capture(opened.model, blocks, batch)
    captured = capture(batch)
    hidden = captured.hidden
    for block in blocks:
        with on_device(block):
            hidden = captured.calls[block.index].run(block.module, hidden, torch.device("cpu"))
    assert torch.equal(capture.logits(batch, hidden), whole(input_ids=batch, use_cache=False).logits)


@pytest.mark.parametrize("order", [[0, 1, 0, 1], [1, 0], [1, 1, 0, 0]], ids=str)
def test_blocks_come_in_any_order_and_changes_in_them_are_lost(order, llama_folder):
    opened, whole = load_model(llama_folder, hold=False), load_model(llama_folder).model
    blocks = find_blocks(opened.model, opened.store)
    for index in order:
        with on_device(blocks[index]):
            weight = blocks[index].linears[0].module.weight
            assert torch.equal(weight, whole.get_parameter(blocks[index].linears[0].weight_name))
            weight.data.zero_()


def test_a_checkpoint_of_the_bare_model_is_found(tokenizer, tmp_path):
    model = make_model("llama", tie_word_embeddings=True)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_file(model.model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    opened = load_model(tmp_path, hold=False)
    assert opened.store is not None
    assert torch.equal(opened.model.lm_head.weight, model.lm_head.weight)


def test_a_weight_that_is_missing_is_left_to_transformers(llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    opened = load_model(folder, hold=False)
    assert opened.store is None
    assert "the whole model is held in memory" in "".join(opened.warnings)


@pytest.mark.parametrize("cut", [5, 1000, -1])
def test_a_file_that_was_cut_short_is_reported_before_any_work(cut, llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(TrimPruneError, match=r"cannot load this model(.|\n)*the files are complete"):
        load_model(folder, hold=False)


def test_a_missing_shard_is_reported(tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama"), tokenizer, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / index["weight_map"]["model.layers.1.mlp.up_proj.weight"]).unlink()
    with pytest.raises(TrimPruneError, match="cannot load this model"):
        load_model(folder, hold=False)


def test_a_file_that_changes_during_the_run_is_named(llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    opened = load_model(folder, hold=False)
    (folder / "model.safetensors").write_bytes(b"")
    with (
        pytest.raises(TrimPruneError, match=r"weights cannot be read(.|\n)*model\.safetensors"),
        on_device(find_blocks(opened.model, opened.store)[0]),
    ):
        raise AssertionError("the block was read")
