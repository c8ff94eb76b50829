"""The command line as a process: what only a process shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def test_help_lists_the_commands(trim_prune_command):
    done = trim_prune_command("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("prune", "evaluate", "demo"))


def test_a_pruned_model_is_evaluated_by_its_folder(trim_prune_command, llama_folder, text_file, tmp_path):
    out = tmp_path / "out"
    options = ["--sparsity", 0.5, "--data", text_file, "--samples", 4, "--seqlen", 16, "--out", out]
    pruned = trim_prune_command("prune", llama_folder, *options)
    assert pruned.returncode == 0, pruned.stderr
    assert "of prunable weights" in pruned.stdout
    # Nothing but our own lines: no bars and no advice of other libraries.
    assert [line.split()[0] for line in pruned.stderr.splitlines()] == ["load", "prune", "block", "block", "write"]
    evaluated = trim_prune_command("evaluate", out, "--data", text_file, "--seqlen", 32)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.startswith("Perplexity ")


def test_bad_input_gives_a_message_and_no_traceback(trim_prune_command, llama_folder, tmp_path):
    done = trim_prune_command("prune", llama_folder, "--sparsity", 0.5, "--score", "wnada", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: unknown score 'wnada'",
        "  expected: one of magnitude, obs, ria, wanda",
        "  fix:      did you mean 'wanda'?",
    ]


def test_ctrl_c_exits_with_130_and_leaves_nothing(llama_folder, text, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text(text * 200, encoding="utf-8")
    out = tmp_path / "results" / "out"
    options = ["--sparsity", "0.5", "--samples", "15000", "--seqlen", "64", "--data", str(file), "--out", str(out)]
    call = [sys.executable, "-m", "trim_prune", "prune", str(llama_folder), *options]
    # One thread: on a busy machine several would spin for each other, and a tiny model take minutes.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=alone) as process:
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        assert any(line.strip() == "prune" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        watchdog.cancel()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(out.parent.iterdir()) == []
