"""A rank that fails or dies ends the run, with a message; the same command goes on, with any number of ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, save_model

from trim_prune import prune

RECIPE = {"sparsity": 0.5, "rows": "optimal", "samples": 12, "seqlen": 16}
OPTIONS = ["--sparsity", "0.5", "--rows", "optimal", "--samples", "12", "--seqlen", "16"]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), make_model("llama", num_hidden_layers=3), tokenizer)


@pytest.fixture
def torchrun(cache_folder):
    """Run a script or module by real torchrun."""

    def run(ranks, *program, **environment):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        paths = os.pathsep.join(sys.path)
        variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
        return subprocess.run(
            [*command, *map(str, program)], capture_output=True, text=True, timeout=240, env=variables, check=False
        )

    return run


@pytest.mark.parametrize(
    ("rank", "failure", "message"),
    [
        (1, "raise", "error: rank 1 of 2: made to fail"),
        (1, "kill", "error: rank 0 of 2: a rank of the run has ended"),
        (0, "kill", "error: rank 1 of 2: a rank of the run has ended"),
    ],
)
def test_a_rank_that_ends_ends_the_run_and_the_same_command_goes_on(
    rank, failure, message, folder, text_file, torchrun, content, tmp_path
):
    out = tmp_path / "out"
    script, arguments = Path(__file__).with_name("failing_rank.py"), ["prune", folder, *OPTIONS, "--data", text_file]
    variables = {"FAILING_RANK": str(rank), "FAILURE": failure, "FAILING_BLOCK": "2"}
    failed = torchrun(2, script, *arguments, "--out", out, **variables)
    assert failed.returncode != 0
    assert failed.stderr.count("error: rank") == 1, failed.stderr
    assert message in failed.stderr
    if rank != 0:
        assert "2 of 3 blocks are done and kept" in failed.stderr
        assert "the same command goes on from there" in failed.stderr
    assert not out.exists()
    if (rank, failure) == (1, "kill"):
        # With more ranks than it began with.
        done = torchrun(3, script, *arguments, "--out", out, **variables | {"FAILING_BLOCK": "none"})
        assert done.returncode == 0, done.stderr
        assert "going on after block 2/3" in done.stderr
        assert done.stdout.count("of prunable weights") == 1
    else:
        told = []
        prune(folder, RECIPE, text_file, out=out, on_event=told.append)
        assert [event.data["blocks_done"] for event in told if event.kind == "resumed"]
    prune(folder, RECIPE, text_file, out=tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_only_a_prune_is_done_by_several_processes(torchrun):
    done = torchrun(2, "-m", "trim_prune", "doctor")
    assert done.returncode != 0
    assert done.stderr.count("only a prune is done by several processes together") == 1


def test_of_one_process_nothing_is_said_of_ranks(invoke):
    assert "torchrun" in invoke("prune", "--help")[1]
    assert not torch.distributed.is_initialized()
