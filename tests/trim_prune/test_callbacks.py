"""Callbacks are called in order, with facts, and stop a run where they fail."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from tiny_models import linears_of, make_model

from trim_kernels import testing
from trim_kernels.testing.callbacks import KNOWN, LINEAR
from trim_prune import Callback, TrimPruneError, prune
from trim_prune.callbacks import METHODS
from trim_prune.structured.results import Check

BASE = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.entries = []

    def on_plan(self, facts):
        self.entries.append(("plan", facts["linears"]))

    def on_block_start(self, facts):
        self.entries.append(("start", facts["block"], facts["blocks"], facts["name"]))

    def on_linear(self, facts):
        self.entries.append(("linear", facts["name"], facts["prune_count"]))

    def on_block_end(self, facts):
        self.entries.append(("end", facts["block"]))

    def on_save(self, facts):
        folder = Path(facts["folder"])
        self.entries.append(("save", json.loads((folder / "run.json").read_text())["sparsity"]["of_prunable"]))
        (folder / "diary.txt").write_text("mine")


@pytest.mark.parametrize("recipe", [BASE, {"pattern": "keep 2 of 4", "score": "magnitude"}])
def test_each_method_is_called_where_it_says(recipe, llama_folder, tmp_path):
    diary = Diary()
    prune(llama_folder, recipe, out=tmp_path / "out", callbacks=[diary, Callback()])
    linears = linears_of(make_model("llama"), "llama")
    (kind, plan), *rest, saved = diary.entries
    assert kind == "plan"
    assert [(linear["name"], linear["shape"]) for linear in plan] == [
        (name, list(linear.weight.shape)) for name, linear in linears.items()
    ]
    assert {linear["pattern"] for linear in plan} == {recipe.get("pattern")}
    expected = []
    for block in range(2):
        own = [("linear", linear["name"], linear["prune_count"]) for linear in plan if linear["block"] == block]
        expected += [("start", block, 2, f"model.layers.{block}"), *own, ("end", block)]
    assert rest == expected
    assert saved == ("save", 0.5)
    assert (tmp_path / "out/diary.txt").read_text() == "mine"


class Everything(Callback):
    """What it was told, by method."""

    def __init__(self):
        self.told = {}
        for method in METHODS.values():
            setattr(self, method, partial(self.tell, method))

    def tell(self, method, facts):
        self.told.setdefault(method, []).append(dict(facts))


@pytest.mark.parametrize("options", [{}, {"pattern": "keep 2 of 4", "permute": True}, {"rows": "trim", "samples": 4}])
def test_the_check_for_plug_ins_tells_what_a_run_does(options, llama_folder, text, tmp_path):
    if "permute" in options:
        pytest.importorskip("scipy")
    recipe = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform", "seqlen": 16} | options
    if "pattern" in options:
        del recipe["rows"]
    real, shown = Everything(), []
    prune(llama_folder, recipe, [text], out=tmp_path / "out", callbacks=[real])

    def make():
        shown.append(Everything())
        return shown[-1]

    testing.check_callback(make)
    whole = shown[0].told
    assert whole.keys() == real.told.keys()
    for method in whole.keys() - {"on_linear"}:
        assert {key for facts in whole[method] for key in facts} == {
            key for facts in real.told[method] for key in facts
        }
    keys = [set(facts) for facts in real.told["on_linear"]]
    assert set.intersection(*keys) >= set(LINEAR)
    assert set.union(*keys) <= set(LINEAR) | set(KNOWN)


def test_a_structured_run_tells_of_blocks_and_of_what_is_written(tokenizer, text, tmp_path, monkeypatch):
    monkeypatch.setattr("trim_prune.structured.run.check_written", lambda *_: Check("", 0, 0.0))
    diary = Everything()
    recipe = {"preset": "slimllm", "params": 0.85, "samples": 8, "seqlen": 32}
    prune(make_model("llama"), recipe, [text], tokenizer=tokenizer, out=tmp_path / "out", callbacks=[diary])
    assert [(method, len(told)) for method, told in diary.told.items()] == [("on_block_end", 2), ("on_save", 1)]
    assert (tmp_path / "out" / "report.json").exists()


def test_nothing_is_saved_without_a_folder():
    diary = Diary()
    prune(make_model("llama"), BASE, callbacks=[diary])
    assert "save" not in {entry[0] for entry in diary.entries}


@pytest.mark.parametrize("method", ["on_plan", "on_linear", "on_save"])
def test_a_callback_that_fails_ends_the_run_and_no_model_is_written(method, llama_folder, tmp_path, leftovers):
    def fail(facts):
        raise RuntimeError("no more")

    callback = Callback()
    setattr(callback, method, fail)
    with pytest.raises(TrimPruneError, match=rf"a callback failed(.|\n)*Callback.{method}(.|\n)*RuntimeError: no more"):
        prune(llama_folder, BASE, out=tmp_path / "out", callbacks=[callback])
    assert leftovers(tmp_path) == ["out.unfinished"]
