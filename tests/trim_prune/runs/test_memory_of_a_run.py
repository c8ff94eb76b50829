"""The memory that a prune takes does not grow with the model."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, save_model
from torch import nn

from trim_prune.models.shards import weight_files

SCRIPT = Path(__file__).with_name("memory_script.py")
BLOCKS, SHARDS = 32, 20
ROOM = 32 << 20
"""What a prune of matrices of this size may take beside three blocks: 2 GiB for those of large models."""
RECIPE = {"sparsity": 0.5, "samples": 2, "seqlen": 16, "rows": "uniform"}


@pytest.fixture(scope="module")
def large(tokenizer, tmp_path_factory):
    """A model of equal blocks in many shards; the bytes of a block, and of the whole."""
    model = make_model("llama", hidden_size=512, intermediate_size=1408, num_hidden_layers=1, dtype=torch.bfloat16)
    model.config.num_hidden_layers = BLOCKS
    model.model.layers = nn.ModuleList([copy.deepcopy(model.model.layers[0]) for _ in range(BLOCKS)])
    block, total = (
        sum(parameter.numel() * parameter.element_size() for parameter in part.parameters())
        for part in (model.model.layers[0], model)
    )
    folder = save_model(tmp_path_factory.mktemp("large"), model, tokenizer, max_shard_size=total // (SHARDS - 1))
    assert len(weight_files(folder)) >= SHARDS
    return folder, block, total


def run(model, out, warm, text, limit):
    # The C library gives back what it maps; by default it maps only blocks that are larger than those of this model.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, warm, model, text, out, json.dumps([RECIPE]), limit]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment, check=False
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of the memory of a process")
def test_a_model_is_pruned_in_the_memory_of_a_few_of_its_blocks(large, tokenizer, text_file, tmp_path):
    folder, block, total = large
    warm = save_model(tmp_path / "warm", make_model("llama", dtype=torch.bfloat16), tokenizer)
    bound = 3 * block + ROOM
    assert total > 3 * bound
    done = run(folder, tmp_path / "out", warm, text_file, total // 2)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["peak"] < bound
    # Without the first blocks, when memory is asked for the first time, and the last, after which none is read.
    steady = told["blocks"][4:-1]
    assert max(steady) - min(steady) < block
    held = run(folder, "nowhere", warm, text_file, total // 2)
    assert held.returncode != 0
    assert "alloc" in held.stderr or "memory" in held.stderr.lower()
