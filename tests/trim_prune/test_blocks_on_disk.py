"""Every method prunes a model whose blocks stay on the disk to the bits that it gives one in memory."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_model, save_model

from trim_prune import load_model, prune

BASE = {"sparsity": 0.5, "samples": 3, "seqlen": 16, "batch_size": 2}
SHORT = {"stages": [16], "population": 4, "offspring": 4, "parents": 2, "generations": 1, "sequences": 2}
RECIPES = {
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "owl": {"layers": "owl"},
    "dlp": {"layers": "dlp", "rows": "whole"},
    "alphapruning": {"layers": "alphapruning", "score": "ria", "rows": "uniform"},
    "optimal": {"layers": "optimal", "rows": "optimal", "optimal": {"sequences": 2}},
    "msp": {"layers": "msp", "msp": SHORT, "rows": "uniform"},
    "msp by magnitude": {"layers": "msp", "msp": SHORT, "score": "magnitude", "rows": "uniform"},
    "sparsegpt": {"solver": "sparsegpt", "rows": "uniform", "recapture": True},
    "swaps": {"solver": "swaps"},
    "alps": {"solver": "alps", "rows": "uniform"},
    "correction": {"correction": 0.5},
    "permuted": {"pattern": "keep 2 of 4", "permute": True, "rows": "uniform"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_on_the_disk_is_pruned_as_one_in_memory(recipe, dtype, tokenizer, text, tmp_path):
    made = make_model("llama", num_hidden_layers=3, dtype=dtype, head_dim=8)
    folder = save_model(tmp_path / "model", made, tokenizer, max_shard_size="30KB")
    assert load_model(folder, hold=False).store is not None
    model = load_model(folder).model
    recipe = BASE | RECIPES[recipe]
    theirs = prune(model, recipe, [text], tokenizer=tokenizer)
    ours = prune(folder, recipe, [text], out=tmp_path / "out")
    written = {n: t for file in (tmp_path / "out").glob("model-*") for n, t in load_file(file).items()}
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(mask, ours.masks[name]) for name, mask in theirs.masks.items())
    assert ours.sparsity == theirs.sparsity
