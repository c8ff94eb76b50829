from __future__ import annotations

import json
import shutil

import pytest

from trim_prune import prune

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


@pytest.fixture
def run_folder(runs, tmp_path):
    """A copy of one of them, and a way to change its run.json."""

    def copy(name, **changes):
        folder = shutil.copytree(runs / name, tmp_path / name)
        file = folder / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return copy
