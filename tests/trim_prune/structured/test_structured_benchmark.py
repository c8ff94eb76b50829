"""The benchmark of structured pruning: rows that are measured once, and a table of them."""

from __future__ import annotations

import json

import pytest

from benchmarks import structured
from benchmarks.structured_table import table

AMOUNTS = {"params": "0.85", "samples": "8", "seqlen": 32, "windows": 4, "window": 16, "long_windows": 2}


@pytest.fixture
def measure(llama_folder, text_file, tmp_path):
    """Run the benchmark on a tiny model; returns what the file holds."""

    def run(methods, also=None, **options):
        amounts = AMOUNTS | options
        file = tmp_path / "structured.json"
        structured.main(
            llama_folder, text_file, methods, also, dtype="float32", batch_size=4, out=file, long_window=32, **amounts
        )
        return json.loads(file.read_text())

    return run


def test_every_method_is_measured_and_told(measure, tmp_path):
    content = measure(";".join(structured.METHODS))
    assert [row["method"] for row in content["rows"]] == list(structured.METHODS)
    for row in content["rows"]:
        assert row["parameters"] / row["dense_parameters"] == pytest.approx(0.85, abs=0.02)
        assert row["ratio_to_dense"] == pytest.approx(row["perplexity"] / content["dense_perplexity"])
        assert row["long_ratio_to_dense"] == pytest.approx(row["long_perplexity"] / content["dense_long_perplexity"])
        assert row["memory"] >= 0
        assert row["speedup"] > 0
    errors = {row["method"]: row["error"] for row in content["rows"]}
    assert errors["magnitude"] == [None, None]
    assert errors["no repair"][0] == errors["no repair"][1]
    assert errors["repair full"][1] < errors["SlimLLM"][1] < errors["SlimLLM"][0]
    told = (tmp_path / "structured.md").read_text()
    assert told == table(content)
    assert "15% of the parameters removed, calibrated on 8 x 32 tokens." in told
    row = content["rows"][0]
    assert f"| SlimLLM | {row['perplexity']:.1f} ({row['ratio_to_dense']:.2f}) |" in told


def test_what_is_there_is_not_measured_again(measure, monkeypatch):
    first = measure("magnitude")
    pruned = []
    prune = structured.prune
    monkeypatch.setattr(structured, "prune", lambda *args, **options: pruned.append(args[1]) or prune(*args, **options))
    second = measure("magnitude;Wanda", also=['mine={"heads": "none"}'])
    assert second["rows"][0] == first["rows"][0]
    assert [row["method"] for row in second["rows"]] == ["magnitude", "Wanda", "mine"]
    assert [recipe.channels for recipe in pruned] == ["wanda", "feature"]


def test_what_is_refused_is_said_and_the_rest_is_measured(measure, capsys):
    content = measure("repair full;magnitude", samples="1,2")
    found = [(row["method"], row["recipe"]["samples"]) for row in content["rows"]]
    assert found == [("magnitude", 1), ("repair full", 2), ("magnitude", 2)]
    assert "at least 48 tokens" in capsys.readouterr().out


def test_an_unknown_method_is_refused_before_any_work(measure):
    with pytest.raises(SystemExit, match="unknown method 'Slim': known are SlimLLM, repair full"):
        measure("Slim")
