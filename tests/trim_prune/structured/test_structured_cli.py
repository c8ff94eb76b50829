"""trim-prune prune with a share of the parameters."""

from __future__ import annotations

import json
import re

import pytest

from trim_prune.cli.structured import _sizes
from trim_prune.structured import check, run
from trim_prune.structured.results import PartResult

TINY = ["--samples", 8, "--seqlen", 32]


def test_a_run_tells_sizes_speed_and_what_a_fresh_process_found(invoke, llama_folder, text_file, tmp_path):
    out = tmp_path / "out"
    options = ["--preset", "slimllm", "--params", 0.85, "--data", text_file, *TINY, "--out", out]
    code, printed, progress = invoke("prune", llama_folder, *options)
    assert code == 0, progress
    assert re.search(r"dense +32032", printed)
    assert re.search(r"asked to stay +27227 +0\.849994", printed)
    parameters = json.loads((out / "run.json").read_text())["parameters"]["pruned"]
    assert re.search(rf"pruned +{parameters} +0\.8[45]", printed)
    assert re.search(r"attention: 1 of 2 KV groups stay in \d blocks; output error", printed)
    assert re.search(r"tokens per second, decoding on cpu: [\d.]+ dense, [\d.]+ pruned", printed)
    assert f"by trim_prune.load in a fresh process: {parameters} parameters, logits equal within 0.0e+00" in printed
    assert f"written to {out}" in printed
    assert "mode ragged: each block gets its own size" in progress
    assert re.search(r"similarity of block 2/2  [01]\.\d{4}", progress)
    assert re.search(r"block 2/2  [\d.]+ s  .*channels", progress)
    code, printed, _ = invoke("evaluate", out, "--data", text_file, "--seqlen", 32, "--json")
    assert code == 0
    assert json.loads(printed)["evaluations"][0]["results"]["perplexity"] > 1


def test_masked_mode_tells_what_is_not_zero(invoke, llama_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "check_written", lambda *_: check.Check("", 0, 0.0))
    out = tmp_path / "out"
    options = ["--params", 0.85, "--mode", "masked", "--repair", "affine", "--data", text_file, *TINY, "--out", out]
    code, printed, progress = invoke("prune", llama_folder, *options)
    assert code == 0, progress
    parameters = json.loads((out / "run.json").read_text())["parameters"]
    assert re.search(rf"not zero +{parameters['kept']} +{parameters['kept'] / 32032:.6f}", printed)
    assert abs(parameters["kept"] - 27227) <= 48
    assert "27227 of 32032 parameters are not to be zero" in progress


def test_blocks_of_unlike_sizes_are_told_as_a_range():
    parts = [
        PartResult(block, "attention", units, tuple(range(kept)), "none", None, None, 0.0)
        for block, (units, kept) in enumerate([(2, 1), (8, 3)])
    ]
    assert _sizes(parts) == "1 to 3 of 2 to 8"
    assert _sizes(parts[:1]) == "1 of 2"


BAD = {
    "no target": (["--preset", "slimllm"], "nothing says how much goes", "params: 0.8"),
    "both kinds": (["--params", 0.8, "--sparsity", 0.5], "sparsity, with", "got:      sparsity: 0.5, params: 0.8"),
    "a preset of the other kind": (["--params", 0.8, "--preset", "wanda"], "or sizes, with preset slimllm, smaller"),
    "an option of the other kind": (["--params", 0.8, "--rows", "trim"], "unknown key 'rows'"),
    "a mode without params": (["--sparsity", 0.5, "--mode", "uniform"], "unknown key 'mode'"),
    "too much": (["--ratio", 0.7], "out of reach", "of 32032 parameters stay"),
    "few tokens": (["--params", 0.8, "--repair", "full", "--samples", 1, "--seqlen", 16], "at least 48 tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_leaves_nothing(case, invoke, llama_folder, text_file, tmp_path, leftovers):
    arguments, *messages = BAD[case]
    tiny = [] if "--samples" in arguments else TINY
    options = [*arguments, *tiny, "--data", text_file, "--out", tmp_path / "out"]
    code, _, progress = invoke("prune", llama_folder, *options)
    assert code == 2
    assert all(message in progress for message in messages), progress
    assert "Traceback" not in progress
    assert leftovers(tmp_path, "cache") == []
