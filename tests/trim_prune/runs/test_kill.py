"""A run that is killed, wherever and however often, gives the bytes of one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, save_model

SCRIPT = Path(__file__).with_name("kill_script.py")
RECIPES = {
    "states kept": {"score": "wanda"},
    "two models": {"score": "obs", "solver": "sparsegpt", "rows": "uniform", "correction": 0.5, "layers": "owl"},
}
KILLS = 16


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(recipe, tokenizer, text_file, tmp_path):
    model = make_model("llama", num_hidden_layers=3, dtype=torch.float16)
    folder = save_model(tmp_path / "model", model, tokenizer, max_shard_size="20KB")
    values = {"sparsity": 0.5, "samples": 3, "seqlen": 16, "batch_size": 2} | RECIPES[recipe]
    arguments = [folder, text_file, tmp_path / "out", json.dumps(values), KILLS, list(RECIPES).index(recipe)]
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert sum(told["killed"].values()) == KILLS
    assert set(told["killed"]) == {"lay out", "collect", "search", "write", "rename"}, told
    assert told["finished"] >= 1
