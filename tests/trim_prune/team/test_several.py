"""Two, three and four processes write the bytes of one, whatever the recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import make_architecture
from ranks_script import told_of
from tiny_models import make_model, save_model

from trim_prune.team import groups

BASE = {"sparsity": 0.5, "samples": 18, "seqlen": 16, "batch_size": 3}
SEARCH = {"stages": [16, 48], "population": 6, "offspring": 4, "parents": 2, "generations": 2, "sequences": 5}
RECIPES = {
    "trim": ("llama", {"tokens_per_sequence": 2, "recapture": True}),
    "best": ("half", {"preset": "best", "sparsity": 0.6}),
    "sparsegpt": ("half", {"score": "obs", "rows": "uniform", "solver": "sparsegpt", "layers": "owl"}),
    "optimal": ("llama", {"rows": "optimal", "layers": "optimal", "optimal": {"sequences": 6}}),
    "swaps": ("llama", {"rows": "uniform", "solver": "swaps", "layers": "dlp", "correction": 0.3}),
    "alps": ("llama", {"rows": "uniform", "solver": "alps", "layers": "alphapruning"}),
    "pattern": ("llama", {"pattern": "keep 2 of 4", "score": "ria", "permute": True}),
    "experts": ("mixtral", {"rows": "trim", "solver": "sparsegpt"}),
    "transposed": ("gpt2", {"rows": "whole", "solver": "sparsegpt"}),
    "msp": ("llama", {"preset": "msp", "sparsity": 0.75, "msp": SEARCH}),
    "no text": ("llama", {"score": "magnitude", "rows": "uniform"}),
    "in memory": (None, {"rows": "trim"}),
}
UNEVEN = ["best", "optimal", "experts"]
"""Done by three ranks too, of which one has more groups than the others."""
REFUSED = {
    "a structured prune is one process's": {"recipe": {"params": 0.8, "seqlen": 16, "samples": 18}},
    "more ranks than groups of calibration sequences": {"recipe": BASE | {"samples": 4}},
    "every rank takes a device of its own": {"recipe": BASE | {"device": "cpu:0"}},
    "they differ in recipe.seed": {"recipe_of_rank": {"1": {"seed": 5}}},
}
SMALL_PARTS = 16
"""Rows of a part in place of a thousand, so that matrices of tiny models have several."""


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {
        "llama": make_model("llama"),
        "half": make_model("llama", num_hidden_layers=3, dtype=torch.float16),
        "mixtral": make_architecture("mixtral"),
        "gpt2": make_architecture("gpt2"),
    }
    return {name: save_model(folder / name, model, tokenizer, max_shard_size="20KB") for name, model in made.items()}


@pytest.fixture(scope="module")
def call(models, text):
    """A prune by a recipe of the list into a folder, as plain values."""

    def make(name, folder):
        model, recipe = RECIPES[name]
        return {
            "model": None if model is None else str(models[model]),
            "recipe": BASE | recipe,
            "text": None if name == "no text" else text,
            "out": None if model is None else str(folder / name.replace(" ", "-")),
            "largest": 100,
        }

    return make


@pytest.fixture(scope="module")
def jobs(call, tmp_path_factory):
    """What is done by several ranks, and by how many, by name."""
    place = tmp_path_factory.mktemp("several")
    made = {}
    for ranks in (2, 3, 4):
        names = UNEVEN if ranks == 3 else RECIPES
        cache = {"XDG_CACHE_HOME": str(place / f"cache-{ranks}")}
        prunes = [call(name, place / str(ranks)) for name in names]
        made[f"{ranks} ranks"] = {"ranks": ranks, "prunes": prunes, "environment": cache}
    plain, written = call("in memory", place), call("no text", place)
    (place / "no-text").mkdir()
    (place / "no-text" / "file").touch()
    made["less memory"] = {"ranks": 2, "prunes": [plain | {"largest_of_rank": {"1": 1}}]}
    made["only the first finds"] = {"ranks": 2, "prunes": [written]}
    # The last one begins where torch.distributed is in use already.
    made["refused"] = {"ranks": 2, "prunes": [*(plain | change for change in REFUSED.values()), plain]}
    return made


@pytest.fixture(scope="module")
def told(jobs, tmp_path_factory):
    """What each rank of each job tells; see ranks_script.py."""
    place = tmp_path_factory.mktemp("jobs")
    file, script = place / "jobs.json", Path(__file__).with_name("ranks_script.py")
    file.write_text(json.dumps([{"rows": SMALL_PARTS} | job for job in jobs.values()]))
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(place), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(zip(jobs, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert all(isinstance(rank, list) for of_ranks in found.values() for rank in of_ranks), found
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_several_processes_write_the_bytes_of_one(name, told, jobs, call, content, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "ROWS", SMALL_PARTS)
    alone = call(name, tmp_path)
    expected = told_of(alone)
    assert "error" not in expected
    for ranks in (2, 3, 4) if name in UNEVEN else (2, 4):
        place = (UNEVEN if ranks == 3 else list(RECIPES)).index(name)
        for rank, of_rank in enumerate(told[f"{ranks} ranks"]):
            found = dict(of_rank[place])
            assert found.pop("events") == (expected["events"] if rank == 0 else []), ranks
            assert found == json.loads(json.dumps({key: expected[key] for key in found})), (ranks, rank)
        out = jobs[f"{ranks} ranks"]["prunes"][place]["out"]
        if out is not None:
            assert content(Path(out)) == content(Path(alone["out"]))
            assert not Path(f"{out}.unfinished").exists()


def test_one_process_of_torchrun_is_one_process(call, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert "error" not in told_of(call("no text", tmp_path))
    assert not torch.distributed.is_initialized()


def test_a_rank_may_have_less_memory_than_the_others(told, call, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "ROWS", SMALL_PARTS)
    expected = told_of(call("in memory", tmp_path))
    for (found,) in told["less memory"]:
        assert found["weights"] == expected["weights"]
        assert found["masks"] == expected["masks"]


def test_what_ranks_cannot_do_is_refused_on_all_of_them_before_any_work(told):
    for *refusals, plain in told["refused"]:
        for message, found in zip(REFUSED, refusals, strict=True):
            assert message in found["error"]
        assert plain["weights"] == told["2 ranks"][0][list(RECIPES).index("in memory")]["weights"]


def test_what_only_the_first_rank_finds_ends_the_others_too(told):
    (first,), (second,) = told["only the first finds"]
    assert "exists and is not empty" in first["error"]
    assert "a rank of the run has ended" in second["error"]
