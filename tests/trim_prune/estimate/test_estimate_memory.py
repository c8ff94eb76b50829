"""The peak that is told is the peak that a prune has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, save_model

from trim_prune import plan
from trim_prune.estimate import workspaces
from trim_prune.estimate.memory import collected, factors, hidden_states, moments, one_linear, peak, unsettled
from trim_prune.estimate.subject import Subject
from trim_prune.models.discover import find_blocks
from trim_prune.recipes import build_recipe

SCRIPT = Path(__file__).parents[1] / "runs" / "memory_script.py"
SIZES = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 3, "max_position_embeddings": 256}
WITHIN = 0.25
BASE = {"sparsity": 0.6, "samples": 8, "seqlen": 128}
RECIPES = {
    "trim": {},
    "sparsegpt": {"rows": "uniform", "solver": "sparsegpt"},
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "sparsegpt, eight groups": {"rows": "uniform", "solver": "sparsegpt", "samples": 32, "seqlen": 32},
    "alps": {"score": "magnitude", "rows": "uniform", "solver": "alps", "alps": {"iterations": 4}},
    "best": {"preset": "best", "alps": {"iterations": 4}, "batch_size": 2},
    "two models": {"rows": "uniform", "correction": 0.5, "batch_size": 2},
}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A model of 80 MiB whose blocks have 25."""
    return save_model(tmp_path_factory.mktemp("model"), make_model("llama", **SIZES), tokenizer)


@pytest.fixture(scope="module")
def measured(folder, text_file, tokenizer, tmp_path_factory):
    """The most private memory of each prune, beyond what its process had before."""
    scratch = tmp_path_factory.mktemp("scratch")
    warm = save_model(scratch / "warm", make_model("llama", max_position_embeddings=256), tokenizer)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "OMP_NUM_THREADS": "1"}
    recipes = json.dumps([BASE | recipe for recipe in RECIPES.values()])
    command = [sys.executable, SCRIPT, warm, folder, text_file, scratch / "out", recipes, 1 << 40]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: line["peak"] for name, line in zip(RECIPES, lines, strict=True)}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of the memory of a process")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_peak_of_a_prune_is_as_was_told(recipe, folder, measured):
    told = plan(folder, BASE | RECIPES[recipe], timed=False).peaks["host"]
    assert told.total == pytest.approx(measured[recipe], rel=WITHIN), told


def subject_of(device, streamed=True, written=True, **recipe):
    model = make_model("llama", num_hidden_layers=3)
    made = build_recipe(BASE | {"batch_size": 2} | recipe)
    return Subject(model, find_blocks(model), made, torch.device(device), streamed, written, 8, 16)


def names(subject, where, phase, place):
    return {
        name
        for moment in moments(subject, 2, where)
        if (moment.name, moment.place) == (phase, place)
        for name in moment.parts
    }


@pytest.mark.parametrize(
    ("where", "gpu", "host"),
    [
        ("device", {"hidden states"}, set()),
        ("memory", {"on their way"}, {"hidden states"}),
        ("file", {"on their way"}, set()),
    ],
)
def test_on_a_gpu_the_host_holds_what_is_read_and_written(where, gpu, host):
    subject = subject_of("cuda")
    assert names(subject, where, "measure", "gpu") == {"block", "statistics", "forward"} | gpu
    waiting = {"embeddings and head", "block read ahead", "block to be written", "being written"}
    assert names(subject, where, "measure", "host") == waiting | host


def test_a_model_that_is_held_lies_in_memory_as_a_whole():
    held = subject_of("cpu", streamed=False, written=False)
    assert names(held, "memory", "propagate", "host") == {
        "embeddings and head",
        "all blocks",
        "forward",
        "hidden states",
    }
    parts = peak(held, 2, "memory", "host").parts
    assert parts["embeddings and head"] + parts["all blocks"] == sum(
        parameter.numel() * parameter.element_size() for parameter in held.model.parameters()
    )


def test_the_parts_of_each_method():
    plain = collected(subject_of("cpu", score="magnitude", rows="uniform"))
    assert plain == 0
    columns = [32, 32, 32, 48]  # queries, keys and values share theirs; output; gate and up; down
    energy = collected(subject_of("cpu", rows="uniform"))
    assert energy == sum(8 * size for size in columns)
    searched = collected(subject_of("cpu", tokens_per_sequence=2))
    assert searched == energy + sum(size * 8 * 2 * 4 for size in columns)
    grams = collected(subject_of("cpu", rows="uniform", solver="swaps"))
    assert grams == energy + sum(4 * size**2 for size in columns)
    for samples, waiting in ((4, 0), (8, 1), (32, 3)):
        subject = subject_of("cpu", rows="uniform", solver="swaps", samples=samples)
        assert unsettled(replace(subject, sequences=samples)) == waiting * grams
    for solver in ("sparsegpt", "alps"):
        assert factors(subject_of("cpu", rows="uniform", solver=solver)) == sum(4 * size**2 for size in columns)
    assert factors(subject_of("cpu", rows="uniform", solver="swaps")) == 0
    assert (
        hidden_states(subject_of("cpu", correction=0.5)) == 3 * hidden_states(subject_of("cpu")) == 3 * 8 * 16 * 32 * 4
    )


@pytest.mark.parametrize("recipe", [{"layers": "owl"}, {"rows": "optimal", "layers": "optimal"}, {"preset": "msp"}])
def test_layer_budgets_and_gradients_have_moments_of_their_own(recipe):
    found = {moment.name for moment in moments(subject_of("cpu", **recipe), 2, "memory")}
    assert "layer budget" in found
    assert ("gradients" in found) == ("optimal" in recipe.values())


def test_a_method_that_is_not_known_counts_as_two_copies(monkeypatch):
    subject = subject_of("cpu", rows="uniform")
    known = one_linear(subject)
    monkeypatch.setattr(workspaces, "SOLVER", {})
    assert one_linear(subject) == known + 2 * 4 * 32 * 48 - 32 * 48 // 8
