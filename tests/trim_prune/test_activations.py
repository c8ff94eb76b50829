"""Hidden states are the same wherever they wait."""

from __future__ import annotations

import gc

import pytest
import torch
from tiny_models import make_model

from trim_prune import TrimPruneError, activations, prune
from trim_prune.activations import keeper

CPU = torch.device("cpu")
BASE = {"sparsity": 0.5, "samples": 5, "seqlen": 16, "batch_size": 2}


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(activations, "free_memory", lambda: 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1), (4, 64, 33)], ids=str)
def test_a_tensor_in_a_file_is_the_tensor(shape, dtype, no_memory, tmp_path):
    hidden = torch.randn(shape).to(dtype)
    kept = keeper(1, CPU, CPU, tmp_path)(hidden)
    assert kept.dtype == dtype
    assert kept.data_ptr() != hidden.data_ptr()
    assert torch.equal(kept, hidden)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_taken_while_half_of_it_is_enough(monkeypatch, tmp_path):
    monkeypatch.setattr(activations, "free_memory", lambda: 2000)
    hidden = torch.zeros(4)
    assert keeper(1000, CPU, CPU, tmp_path)(hidden) is hidden
    assert keeper(1001, CPU, CPU, tmp_path)(hidden) is not hidden


def test_a_limit_of_the_cgroup_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(activations, "CGROUP", tmp_path)
    whole = activations.free_memory()
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert activations.free_memory() > whole // 2
    (tmp_path / "memory.max").write_text("1000\n")
    assert activations.free_memory() == 400


def test_a_disk_without_space_is_said_to_be_so(no_memory, tmp_path, monkeypatch):
    def full(path, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activations, "allocate", full)
    with pytest.raises(TrimPruneError, match=r"no place for the hidden states(.|\n)*16 bytes more: No space left"):
        keeper(1, CPU, CPU, tmp_path)(torch.zeros(4))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"correction": 0.5, "recapture": True},
        {"layers": "owl", "score": "obs", "rows": "uniform", "solver": "sparsegpt"},
        {"rows": "optimal", "layers": "optimal"},
    ],
    ids=["trim", "two models", "layers by text", "gradients"],
)
def test_a_prune_from_files_gives_the_same_bits(recipe, no_memory, tokenizer, text, tmp_path, monkeypatch):
    models = [make_model("llama"), make_model("llama")]
    prune(models[0], BASE | recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    gc.collect()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]
    monkeypatch.undo()
    prune(models[1], BASE | recipe, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, models[1].state_dict()[name]) for name, tensor in models[0].state_dict().items())
