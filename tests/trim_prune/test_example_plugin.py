"""The example package in tests/example_plugin, installed as its users would, does what a plug-in can."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import linears_of, make_model

SOURCE = Path(__file__).parents[1] / "example_plugin"
CONTRACT = """
from functools import partial
from trim_kernels import testing
from trim_prune import Recipe, count_linear, score_linear
from trim_prune.callbacks import CALLBACKS
testing.check_score(partial(score_linear, Recipe(sparsity=0.5, score="example-root")))
testing.check_row_budget(partial(count_linear, Recipe(sparsity=0.5, rows="example-slope")))
testing.check_callback(CALLBACKS.get("example-table"))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A Python path with the example on it."""
    place = tmp_path_factory.mktemp("example")
    shutil.copytree(SOURCE, place / "source")  # a build leaves files behind
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [*command, "--target", place / "site", place / "source"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return os.pathsep.join([str(place / "site"), *filter(None, sys.path)])


def test_a_run_finds_all_it_brings_by_their_names(installed, llama_folder, text_file, tmp_path, trim_prune_command):
    options = ["--sparsity", 0.5, "--score", "example-root", "--rows", "example-slope", "--callback", "example-table"]
    done = trim_prune_command(
        "prune", llama_folder, *options, "--data", text_file, "--samples", 4, "--seqlen", 16, "--out",
        tmp_path / "out", environment={"PYTHONPATH": installed},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader((tmp_path / "out/linears.csv").read_text().splitlines()))
    linears = linears_of(make_model("llama"), "llama")
    assert [line["name"] for line in lines] == list(linears)
    total = sum(linear.weight.numel() for linear in linears.values())
    assert sum(int(line["pruned"]) for line in lines) == round(0.5 * total)


def test_all_it_brings_passes_the_contract(installed):
    environment = os.environ | {"PYTHONPATH": installed}
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_it_an_unknown_callback_is_told(llama_folder, tmp_path, invoke):
    code, _, errors = invoke(
        "prune", llama_folder, "--sparsity", 0.5, "--callback", "example-table", "--out", tmp_path / "out"
    )
    assert (code, "unknown callback 'example-table'" in errors) == (2, True)
