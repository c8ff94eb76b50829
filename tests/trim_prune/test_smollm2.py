"""One whole run on a real model: SmolLM2-135M-Instruct from its GGUF file, by the command line."""

from __future__ import annotations

import fcntl
import json
import math
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import zeros
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from trim_kernels import unpack_bits
from trim_prune import TrimPruneError
from trim_prune.demo import find_model, split_topics
from trim_prune.models.gguf import SENTENCES

SEQLEN, WINDOWS = 256, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory, worker_id):
    """The GGUF file, and a folder, shared by all workers of pytest-xdist, with calibration and held-out text."""
    try:
        gguf = find_model()
    except TrimPruneError as error:
        pytest.skip(str(error))
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smollm2"
    folder.mkdir(exist_ok=True)
    calibration, held_out = split_topics()
    with locked(folder):
        if not (folder / "held-out.txt").exists():
            (folder / "calibration.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in calibration))
            (folder / "held-out.txt").write_text("\n\n".join(held_out.documents), encoding="utf-8")
    return gguf, folder


@contextmanager
def locked(folder):
    """One worker at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def pruned(files, trim_prune_command):
    """The pruned folder, and what the command wrote to standard error; the first worker to come runs it."""
    gguf, folder = files
    out, messages = folder / "pruned", folder / "stderr.txt"
    with locked(folder):
        if not out.exists():
            messages.write_text(prune_once(trim_prune_command, gguf, folder / "calibration.jsonl", out))
    return out, messages.read_text()


def prune_once(trim_prune_command, gguf, calibration, out):
    options = ["--sparsity", 0.5, "--score", "wanda", "--rows", "trim", "--samples", 8, "--seqlen", 128]
    model = [gguf.parent, "--gguf", gguf.name]
    done = trim_prune_command("prune", *model, *options, "--data", calibration, "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def weights(pruned):
    return load_file(pruned[0] / "model.safetensors")


@pytest.fixture(scope="module")
def reloaded(pruned):
    model = AutoModelForCausalLM.from_pretrained(pruned[0])
    return model, AutoTokenizer.from_pretrained(pruned[0])


def test_the_sparsity_is_exact(pruned, weights):
    run = json.loads((pruned[0] / "run.json").read_text())
    assert len(run["linears"]) == 30 * 7
    names = [f"{linear['name']}.weight" for linear in run["linears"]]
    total = sum(weights[name].numel() for name in names)
    assert total == 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    kept_zeros = sum(linear["kept_zeros"] for linear in run["linears"])
    assert sum(zeros(weights[name]) for name in names) - kept_zeros == round(0.5 * total)
    assert run["sparsity"]["of_prunable"] == 0.5


def test_masks_are_the_zeros(pruned, weights):
    for name, mask in load_file(pruned[0] / "masks.safetensors").items():
        kept = unpack_bits(mask, weights[name].shape[1])
        assert not weights[name][~kept].any()


def test_trim_is_no_worse_than_uniform_rows_in_any_linear(pruned):
    run = json.loads((pruned[0] / "run.json").read_text())
    assert all(linear["quality"] >= linear["baseline_quality"] for linear in run["linears"])
    assert sum(linear["quality"] > linear["baseline_quality"] for linear in run["linears"]) > 100


def test_nothing_foreign_is_in_the_configuration(pruned):
    config = json.loads((pruned[0] / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"quantization_config", "gguf_file", "sparsity_config", "trim_prune"} & config.keys()


def test_the_tokenizer_round_trips_and_no_warning_is_given(pruned, reloaded):
    _, tokenizer = reloaded
    for sentence in SENTENCES:
        assert tokenizer.decode(tokenizer(sentence, add_special_tokens=False)["input_ids"]) == sentence
    assert "block 30/30" in pruned[1]
    assert "warning" not in pruned[1]


def test_tied_embeddings_are_stored_once_and_tied_again(reloaded, weights):
    model, _ = reloaded
    assert "lm_head.weight" not in weights
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@torch.no_grad()
def test_evaluate_equals_a_direct_computation(pruned, files, reloaded, trim_prune_command):
    model, tokenizer = reloaded
    held_out = files[1] / "held-out.txt"
    options = ["--seqlen", SEQLEN, "--max-windows", WINDOWS, "--json"]
    done = trim_prune_command("evaluate", pruned[0], "--data", held_out, *options)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["evaluations"]
    found = entry["protocol"] | entry["results"]
    ids = tokenizer(held_out.read_text(encoding="utf-8"), return_tensors="pt", verbose=False)["input_ids"][0]
    losses = []
    for window in ids[: WINDOWS * SEQLEN].view(WINDOWS, SEQLEN):
        logits = model(input_ids=window[None]).logits[0, :-1]
        losses.append(cross_entropy(logits.double(), window[1:], reduction="none"))
    expected = math.exp(torch.cat(losses).mean())
    assert found["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert 5 < found["perplexity"] < 1000
    assert (found["windows"], found["tokens"]) == (WINDOWS, WINDOWS * SEQLEN)
    assert found["bos"] == ("BOS once at the start" if ids[0] == tokenizer.bos_token_id else "no BOS")
