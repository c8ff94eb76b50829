"""trim-prune evaluate: dense beside pruned, kept in run.json and shown in the report."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import stat

import pytest
import torch
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, evaluate, prune
from trim_prune.evaluation.dense import refuse_pruned, require_dense_model
from trim_prune.evaluation.measure import Wanted, measure
from trim_prune.evaluation.speed import speed
from trim_prune.memory import BodyPeak

BASE = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}
# trim_prune.cli has a function of this name.
cli = importlib.import_module("trim_prune.cli.evaluate")


@pytest.fixture(scope="module")
def pruned_once(llama_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "out"
    prune(llama_folder, BASE, out=out)
    return out


@pytest.fixture
def pruned(pruned_once, tmp_path):
    return shutil.copytree(pruned_once, tmp_path / "out")


def kept(folder):
    return json.loads((folder / "run.json").read_text()).get("evaluations", [])


def test_dense_and_pruned_are_measured_kept_and_shown(pruned, llama_folder, text_file, invoke, pages):
    before = json.loads((pruned / "run.json").read_text())
    mode = stat.S_IMODE((pruned / "run.json").stat().st_mode)
    options = ["--data", text_file, "--seqlen", 32, "--max-windows", 4]
    code, printed, errors = invoke("evaluate", pruned, *options, "--against", llama_folder)
    assert code == 0, errors
    values = {
        of: evaluate(folder, text_file, seqlen=32, max_windows=4).perplexity
        for of, folder in (("dense", llama_folder), ("pruned", pruned))
    }
    lines = [line.split() for line in printed.splitlines()]
    assert lines[1] == ["figure", "dense", "pruned"]
    assert lines[2] == ["perplexity", f"{values['dense']:.2f}", f"{values['pruned']:.2f}"]
    assert f"kept in {pruned / 'run.json'}" in printed
    assert {entry["of"]: entry["results"]["perplexity"] for entry in kept(pruned)} == values
    facts = json.loads((pruned / "run.json").read_text())
    assert {key: value for key, value in facts.items() if key != "evaluations"} == before
    assert stat.S_IMODE((pruned / "run.json").stat().st_mode) == mode
    page = (pruned / "report.html").read_text()
    assert f"dense {values['dense']:.2f}" in page
    assert f"| perplexity | {values['dense']:.2f} | {values['pruned']:.2f} |" in (pruned / "README.md").read_text()


def test_the_same_measured_again_replaces_and_another_protocol_is_added(pruned, text_file, invoke):
    for seqlen in (32, 32, 16):
        assert invoke("evaluate", pruned, "--data", text_file, "--seqlen", seqlen, "--max-windows", 2)[0] == 0
    assert [entry["protocol"]["seqlen"] for entry in kept(pruned)] == [32, 16]
    assert {entry["of"] for entry in kept(pruned)} == {"pruned"}


def test_unlike_protocols_are_refused_and_what_was_measured_is_kept(pruned, tokenizer, text_file, tmp_path, invoke):
    half = save_model(tmp_path / "half", make_model("llama", dtype=torch.bfloat16), tokenizer)
    code, _, errors = invoke("evaluate", pruned, "--data", text_file, "--seqlen", 32, "--against", half)
    assert code == 2
    assert "figures of unlike protocols cannot be compared" in errors
    assert "dtype float32 and bfloat16" in errors
    assert [entry["of"] for entry in kept(pruned)] == ["pruned"]


def test_a_pruned_model_is_no_dense_one(pruned, llama_folder, text_file, tmp_path, invoke):
    options = ["--data", text_file, "--seqlen", 32, "--max-windows", 2]
    for model in (llama_folder, shutil.copytree(pruned, tmp_path / "other")):
        code, printed, errors = invoke("evaluate", model, *options, "--against", pruned)
        assert (code, printed) == (2, "")
        assert "the model to measure against is pruned itself" in errors
    assert kept(pruned) == []
    # What was pruned twice was dense, in a manner of speaking, before the second time.
    refuse_pruned(pruned, {"model": f"elsewhere/{pruned.name}"})


def test_a_model_of_another_size_is_not_the_dense_one(pruned, tokenizer, text_file, tmp_path, invoke):
    larger = save_model(tmp_path / "larger", make_model("llama", intermediate_size=40), tokenizer)
    code, _, errors = invoke("evaluate", pruned, "--data", text_file, "--seqlen", 32, "--against", larger)
    assert code == 2
    assert "the model to measure against is not the one that was pruned" in errors
    assert [entry["of"] for entry in kept(pruned)] == ["pruned"]
    structured = {"parts": [], "parameters": {"dense": 5}, "model": "m"}
    with pytest.raises(TrimPruneError, match="5 parameters, as m has"):
        require_dense_model(structured, make_model("llama"), "other")


def test_figures_of_another_model_of_that_shape_are_not_kept(
    pruned, llama_folder, text_file, tokenizer, tmp_path, invoke
):
    options = ["--data", text_file, "--seqlen", 32, "--max-windows", 2]
    moved = shutil.copytree(llama_folder, tmp_path / "moved")
    code, printed, errors = invoke("evaluate", pruned, *options, "--against", moved)
    assert (code, "warning" in errors) == (0, False)
    assert f"Measured: dense {moved}, pruned {pruned}." in printed
    assert f"Measured: dense {moved}" in (pruned / "README.md").read_text().replace("\\_", "_")
    before = kept(pruned)
    assert [entry["model"] for entry in before] == [str(pruned), str(moved)]
    model = make_model("llama")
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    other = save_model(tmp_path / "other", model, tokenizer)
    code, printed, errors = invoke("evaluate", pruned, *options, "--against", other)
    assert code == 0
    assert f"dense {other}" in printed
    assert f"{other} may not be the model that {pruned} was made from" in errors
    assert [entry["model"] for entry in kept(pruned)] == [str(moved), str(pruned)]


def test_results_that_cannot_be_kept_are_printed_all_the_same(pruned, text_file, invoke, monkeypatch):
    def fail(*args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("trim_prune.runfile.write_atomically", fail)
    code, printed, errors = invoke("evaluate", pruned, "--data", text_file, "--seqlen", 32, "--max-windows", 2)
    assert code == 0
    assert "perplexity" in printed
    assert "the results are not kept in" in errors
    assert "Read-only file system" in errors


def test_each_measurement_has_a_bar_with_the_time_left(llama_folder, text_file, monkeypatch):
    shown = []

    class Progress(cli.Progress):
        def __init__(self, *columns, **options):
            shown.extend(map(type, columns))
            super().__init__(*columns, **options)

    monkeypatch.setattr(cli, "Progress", Progress)
    last = {}
    with cli._Bars() as bars:

        def note(what, done, total):
            last[what] = (done, total)
            bars.update(what, done, total)

        measure(llama_folder, "dense", Wanted(text_file, seqlen=32, max_windows=4, speed=True), on_progress=note)
    assert last == {"dense: windows": (4, 4), "dense: runs": (4, 4)}
    assert cli.TimeRemainingColumn in shown


def test_speed_and_memory_of_both(pruned, llama_folder, invoke):
    code, printed, errors = invoke("evaluate", pruned, "--speed", "--against", llama_folder)
    assert code == 0, errors
    for name in ("prefill, tokens per second", "decode, tokens per second", "parameters in memory"):
        assert name in printed
    first, second = kept(pruned)
    assert first["protocol"] == second["protocol"]
    assert first["protocol"]["prompt_tokens"] + first["protocol"]["new_tokens"] == 64
    parameters = sum(p.numel() * p.element_size() for p in make_model("llama").parameters())
    for entry in (first, second):
        assert entry["results"]["prefill"] > 0
        assert entry["results"]["decode"] > 0
        assert entry["results"]["parameter_bytes"] >= parameters


def test_a_model_of_every_family_reads_and_writes(family):
    runs = []
    protocol, found = speed(make_model(family), on_run=lambda done, total: runs.append((done, total)))
    assert runs == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (protocol["prompt_tokens"], protocol["new_tokens"], protocol["dtype"]) == (32, 32, "float32")
    assert min(found["prefill"], found["decode"]) > 0


def test_decoding_goes_on_from_the_prompt(monkeypatch):
    """What is timed is generation: the tokens of greedy decoding, one at a time."""
    model, seen = make_model("llama"), []
    forward = model.forward

    @functools.wraps(forward)
    def watched(input_ids, **options):
        seen.append(input_ids.clone())
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", watched)
    speed(model)
    prompt, *rest = seen[:33]
    expected = model.generate(prompt, max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(torch.cat(rest, dim=1), expected[:, 32:])


def test_the_peak_of_a_body_is_its_own():
    with BodyPeak(torch.device("cpu")) as large:
        block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    with BodyPeak(torch.device("cpu")) as small:
        pass
    if large.bytes is None:
        pytest.skip("this system does not let a process reset its peak")
    assert large.bytes > small.bytes + (32 << 20)
