from __future__ import annotations

import json
import shutil

import pytest

from trim_prune import prune
from trim_prune.structured import run as structured_run
from trim_prune.structured.results import Check

BASE = {"sparsity": 0.6, "samples": 4, "seqlen": 16}
RECIPES = {
    "trim": {"tokens_per_sequence": 3},
    "best": {"preset": "best"},
    "nm": {"preset": "wanda", "pattern": "keep 2 of 4", "sparsity": 0.5},
}


@pytest.fixture(scope="session")
def runs(llama_folder, text, tmp_path_factory):
    """Three prunes of one model, with their pages; tests must not change them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, choices in RECIPES.items():
        prune(llama_folder, BASE | choices, [text], out=folder / name)
    return folder


@pytest.fixture(scope="session")
def smaller(llama_folder, text, tmp_path_factory):
    """Two structured prunes of it, likewise."""
    folder = tmp_path_factory.mktemp("smaller")
    recipe = {"preset": "slimllm", "params": 0.85, "samples": 8, "seqlen": 32}
    with pytest.MonkeyPatch.context() as patch:
        # A fresh process takes seconds, and has tests of its own.
        patch.setattr(structured_run, "check_written", lambda *_: Check("trim_prune.load", 27232, 1.5e-7))
        prune(llama_folder, recipe, [text], out=folder / "ragged")
        masked = {"mode": "masked", "layers": "uniform", "heads": "magnitude", "channels": "magnitude"}
        prune(llama_folder, recipe | masked, [text], out=folder / "masked")
    return folder


@pytest.fixture
def run_folder(runs, smaller, tmp_path):
    """A copy of one of them, and a way to change its run.json."""

    def copy(name, **changes):
        folder = shutil.copytree((runs if name in RECIPES else smaller) / name, tmp_path / name)
        file = folder / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return copy
