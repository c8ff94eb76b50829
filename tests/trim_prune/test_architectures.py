"""Every architecture that is said to work is pruned from folder to folder."""

from __future__ import annotations

import json
import re

import pytest
import torch
from architectures import ARCHITECTURES, make_architecture
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import random_tokens, save_model

from trim_kernels import unpack_bits
from trim_prune import prune
from trim_prune.models.load import load_model

CALIBRATION = {"samples": 6, "seqlen": 16, "batch_size": 4}
WANDA = {"score": "wanda", "rows": "uniform"}
GRAM = {"score": "wanda", "rows": "optimal", "solver": "sparsegpt"}


@pytest.fixture(params=ARCHITECTURES)
def name(request):
    return request.param


def weights_of(folder):
    """All tensors in the weight files of a folder."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return {key: tensor for shard in shards for key, tensor in load_file(folder / shard).items()}


def masks_of(folder):
    """The masks, unpacked over their tensors, and the names of those whose matrices are [inputs, outputs]."""
    packed = load_file(folder / "masks.safetensors")
    with safe_open(folder / "masks.safetensors", "pt") as file:
        about = json.loads(file.metadata()["trim-prune-masks"])
    kept = {
        key: unpack_bits(mask.flatten(0, -2), about["shapes"][key][-1]).view(about["shapes"][key])
        for key, mask in packed.items()
    }
    return kept, set(about["transposed"])


@pytest.mark.parametrize("method", [WANDA, GRAM], ids=["wanda", "gram"])
def test_it_is_pruned_to_the_weight_and_written_as_it_was(name, method, tokenizer, text_file, tmp_path):
    architecture = ARCHITECTURES[name]
    source = save_model(tmp_path / "source", make_architecture(name), tokenizer)
    recipe = {"sparsity": 0.537, **CALIBRATION, **method, **architecture.options}
    result = prune(source, recipe, text_file, out=tmp_path / "out")
    before, after = weights_of(source), weights_of(tmp_path / "out")
    kept, transposed = masks_of(tmp_path / "out")
    touched = {key for key in before if re.search(rf"{architecture.pruned}$", key)}
    assert before.keys() == after.keys()
    assert kept.keys() == touched
    assert transposed == {key for key in touched if re.search(architecture.transposed or "$^", key)}
    total = sum(before[key].numel() for key in touched)
    assert result.sparsity.prunable_weights == total
    assert result.sparsity.pruned == round(0.537 * total) == sum(int((~mask).sum()) for mask in kept.values())
    for key, tensor in before.items():
        if key not in touched:
            assert torch.equal(after[key], tensor), key
            continue
        assert torch.equal(after[key] == 0, ~kept[key]), key
        if method is WANDA:
            assert torch.equal(after[key], tensor.masked_fill(~kept[key], 0)), key
            # Every row loses as much, but for one weight: rows are those of the product.
            lost = (~kept[key]).sum(dim=-2 if key in transposed else -1)
            assert int(lost.max()) - int(lost.min()) <= 1, key


def test_the_written_folder_loads_as_the_pruned_model(name, tokenizer, text_file, tmp_path):
    source = save_model(tmp_path / "source", make_architecture(name), tokenizer)
    recipe = {"sparsity": 0.5, **CALIBRATION, **WANDA, **ARCHITECTURES[name].options}
    result = prune(source, recipe, text_file, out=tmp_path / "out")
    again = load_model(tmp_path / "out").model
    ids = random_tokens(2, 12)
    with torch.no_grad():
        found, expected = again(input_ids=ids).logits, result.model(input_ids=ids).logits
    assert torch.isfinite(found).all()
    assert torch.equal(found, expected)


def test_a_model_in_memory_is_written_in_the_same_form(name, tokenizer, text_file, tmp_path):
    model = make_architecture(name)
    source = save_model(tmp_path / "source", model, tokenizer)
    recipe = {"sparsity": 0.5, **CALIBRATION, **WANDA, **ARCHITECTURES[name].options}
    prune(source, recipe, text_file, out=tmp_path / "from folder")
    prune(model, recipe, text_file, tokenizer=tokenizer, out=tmp_path / "from memory")
    assert masks_of(tmp_path / "from memory")[1] == masks_of(tmp_path / "from folder")[1]
    for read in (weights_of, lambda folder: masks_of(folder)[0]):
        from_folder, from_memory = read(tmp_path / "from folder"), read(tmp_path / "from memory")
        assert from_folder.keys() == from_memory.keys()
        assert all(torch.equal(tensor, from_memory[key]) for key, tensor in from_folder.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["gpt2", "mixtral"])
def test_halves_stay_what_they_were(layout, dtype, tokenizer, text_file, tmp_path):
    source = save_model(tmp_path / "source", make_architecture(layout).to(dtype), tokenizer)
    prune(source, {"sparsity": 0.5, **CALIBRATION, **WANDA}, text_file, out=tmp_path / "out")
    before, after, (kept, _) = weights_of(source), weights_of(tmp_path / "out"), masks_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    for key, tensor in before.items():
        assert torch.equal(after[key], tensor.masked_fill(~kept[key], 0) if key in kept else tensor), key
