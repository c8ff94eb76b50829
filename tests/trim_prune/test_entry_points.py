"""Plug-ins: distributions with entry points, found when a name is asked for that is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_models import linears_of, make_model

from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.plugins import load_plugins
from trim_prune.scores import SCORES
from trim_prune.solvers import SOLVERS

REGISTERS = """
import pathlib
with pathlib.Path(__file__).with_suffix(".loads").open("a") as log:
    log.write("loaded\\n")

import torch
import trim_kernels
import trim_prune

@trim_prune.register_score("first-columns-go")
def score(request):
    columns = torch.arange(request.weight.shape[1], dtype=torch.float32)
    return trim_prune.Importance(score=columns.expand_as(request.weight).contiguous())

@trim_prune.register_row_budget("as-even")
def rows(request):
    return trim_prune.RowDecision(trim_kernels.uniform_counts(*request.weight.shape, request.prune_count))

@trim_prune.register_layer_budget("as-given")
def layers(request):
    return [request.sparsity] * len(request.linears)

@trim_prune.register_solver("as-masked")
def solve(request):
    score = request.importance.score
    kept = trim_kernels.row_mask(request.weight, request.prune_count, score=score, packed=True)
    trim_kernels.prune_rows_(request.weight, request.prune_count, score=score)
    return kept
"""
CHOICES = {"score": "first-columns-go", "rows": "as-even", "layers": "as-given", "solver": "as-masked"}


@pytest.fixture
def install(tmp_path):
    """Install a distribution ``trim-NAME`` 1.5 whose module is given, without pip."""

    def install(name, program, entry=None):
        (tmp_path / f"trim_{name}.py").write_text(program, encoding="utf-8")
        folder = tmp_path / f"trim_{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trim-{name}\nVersion: 1.5\n")
        (folder / "entry_points.txt").write_text(f"[trim_prune.plugins]\n{name} = {entry or 'trim_' + name}\n")
        return tmp_path

    return install


def python_path(folder):
    """The path of this process and the folder: a process of its own sees both."""
    return ":".join([str(folder), *filter(None, sys.path)])


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """What is installed can be imported in this process, and is forgotten after the test."""
    for registry in (SCORES, ROW_BUDGETS, LAYER_BUDGETS, SOLVERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        if module.startswith("trim_"):
            del sys.modules[module]
    load_plugins.cache_clear()


def loads(folder, name="good"):
    log = folder / f"trim_{name}.loads"
    return log.read_text().count("loaded") if log.exists() else 0


def test_a_plug_in_brings_one_of_each(install, on_path):
    folder = install("good", REGISTERS)
    model = make_model("llama")
    result = prune(model, {"sparsity": 0.5, **CHOICES})
    assert result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)
    for linear in linears_of(model, "llama").values():
        assert not linear.weight[:, : linear.in_features // 2].any()
    assert loads(folder) == 1


def test_an_entry_point_may_be_an_object_in_a_module(install, on_path):
    install("good", REGISTERS, entry="trim_good:score")
    assert Recipe.build({"sparsity": 0.5, "score": "first-columns-go", "rows": "uniform"}).needs == frozenset()


def test_names_of_our_own_load_no_plug_in(install, on_path):
    folder = install("good", REGISTERS)
    prune(make_model("llama"), {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"})
    assert loads(folder) == 0


def test_the_list_of_names_has_those_of_plug_ins(install, on_path):
    install("good", REGISTERS)
    assert "first-columns-go" in SCORES.names()
    assert "as-masked" in SOLVERS.names()


BROKEN = {
    "missing module": ("import not_there_at_all", None, "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "missing object": ("", "trim_bad:nothing", "AttributeError: module 'trim_bad' has no attribute 'nothing'"),
    "several lines": ("raise OSError('first\\nsecond')", None, "OSError: first)"),
    "no words": ("raise AssertionError", None, "AssertionError: )"),
    "a name that is taken": (
        "import trim_prune\ntrim_prune.register_score('wanda')(None)",
        None,
        "TrimPruneError: score 'wanda' is registered already",
    ),
}


@pytest.mark.parametrize(("program", "entry", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plug_in_stops_nobody_who_does_not_use_it(program, entry, reason, install, on_path):
    install("good", REGISTERS)
    install("bad", program, entry)
    assert Recipe.build({"sparsity": 0.5, **CHOICES}).score == "first-columns-go"
    assert SCORES.get("wanda").needs == {"column_energy"}


@pytest.mark.parametrize(("program", "entry", "reason"), BROKEN.values(), ids=BROKEN)
def test_an_unknown_name_tells_of_the_broken_plug_in(program, entry, reason, install, on_path):
    install("bad", program, entry)
    with pytest.raises(TrimPruneError) as error:
        Recipe.build({"sparsity": 0.5, "score": "from-the-broken-one"})
    assert error.value.what == "unknown score 'from-the-broken-one'"
    assert f"repair plug-in 'bad' of trim-bad 1.5 ({reason}" in error.value.fix


def test_the_command_line_finds_a_plug_in(install, llama_folder, tmp_path, trim_prune_command):
    folder = install("good", REGISTERS)
    options = ["--out", tmp_path / "pruned", "--sparsity", "0.5", "--score", "first-columns-go", "--rows", "uniform"]
    found = trim_prune_command("prune", llama_folder, *options, environment={"PYTHONPATH": python_path(folder)})
    assert found.returncode == 0, found.stderr
    assert loads(folder) == 1


def test_the_command_line_tells_of_a_broken_plug_in(install, llama_folder, tmp_path, trim_prune_command):
    folder = install("bad", "import not_there_at_all")
    options = ["--out", tmp_path / "pruned", "--sparsity", "0.5", "--score", "wnada"]
    found = trim_prune_command("prune", llama_folder, *options, environment={"PYTHONPATH": python_path(folder)})
    assert found.returncode == 2
    assert "did you mean 'wanda'?; repair plug-in 'bad' of trim-bad 1.5 (ModuleNotFoundError" in found.stderr


@pytest.mark.parametrize("arguments", [["-m", "trim_prune", "prune", "--help"], ["-c", "import trim_prune"]])
def test_neither_help_nor_an_import_loads_plug_ins(arguments, install):
    folder = install("good", REGISTERS)
    environment = {"PYTHONPATH": python_path(folder)}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
    assert loads(folder) == 0
