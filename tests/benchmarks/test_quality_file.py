"""Files of perplexities: rows of several processes, and what they say of where they were measured."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks.msp_table import table as msp_table
from benchmarks.quality_file import Protocol, QualityFile
from benchmarks.quality_report import table
from trim_prune import Recipe

CPU = {"device": "cpu", "threads": 2, "commit": "a"}
GPU = {"device": "NVIDIA X1", "threads": 8, "commit": "b"}
PROTOCOL = Protocol("model", "text", "bfloat16", 256, 8, 512)
RECIPES = [Recipe(sparsity=sparsity, samples=32) for sparsity in (0.5, 0.6)]


def row(recipe: Recipe, **more: object) -> dict[str, object]:
    figures = {"perplexity": 20.0, "ratio_to_dense": 2.0, "seconds": 7.0, "pruned": 5, "prunable_weights": 10}
    return {"method": "TRIM", "recipe": recipe.model_dump(mode="json"), "samples": 32} | figures | more


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "quality.json"


def test_what_another_process_added_stays(path):
    first, second = QualityFile(path, CPU, PROTOCOL), QualityFile(path, GPU, PROTOCOL)
    first.put("dense_perplexity", 10.0)
    first.add(row(RECIPES[0], sparsity=0.5))
    second.add(row(RECIPES[1], sparsity=0.6))
    first.put("candidates", {})
    content = json.loads(path.read_text())
    assert [(found["device"], found["commit"]) for found in content["rows"]] == [("cpu", "a"), ("NVIDIA X1", "b")]
    assert (content["dense_perplexity"], content["candidates"]) == (10.0, {})
    assert all(first.has("TRIM", recipe) for recipe in RECIPES)
    assert not first.has("Wanda", RECIPES[0])
    assert {found.name for found in path.parent.iterdir()} == {path.name}


def test_rows_of_another_protocol_are_refused(path):
    QualityFile(path, CPU, PROTOCOL).put("dense_perplexity", 10.0)
    other = Protocol(**(asdict(PROTOCOL) | {"dtype": "float32"}))
    with pytest.raises(SystemExit, match="another protocol"):
        QualityFile(path, CPU, other)


def test_a_star_marks_what_no_cpu_measured(path):
    file = QualityFile(path, CPU, PROTOCOL)
    file.put("dense_perplexity", 10.0)
    file.add(row(RECIPES[0], sparsity=0.5))
    assert "*" not in table(file.content)
    QualityFile(path, GPU, PROTOCOL).add(row(RECIPES[1], sparsity=0.6))
    file.put("candidates", {})
    found = table(file.content)
    assert "(2.00; 7 s) |" in found
    assert "(2.00; 7 s\\*; 50.0000%)" in found
    assert "\\* on one NVIDIA X1." in found


def test_mixed_sparsity_marks_the_method(path):
    search = {
        "search_seconds": 3.0,
        "evaluations": 6,
        "evaluations_per_second": 2.0,
        "keeps": [2, 1],
        "memory": 3 << 29,
    }
    file = QualityFile(path, GPU, PROTOCOL)
    took = {"threads": 1, "search": 1.0, "copy": 6.0, "search_first": 1.0, "copy_first": 2.0}
    for section, value in {
        "dense_perplexity": 10.0,
        "candidates": {"cuda": {"stages": [256]} | took},
    }.items():
        file.put(section, value)
    file.add(row(RECIPES[0], **search) | {"method": "Wanda, MSP"})
    found = msp_table(file.content)
    assert "| Wanda, MSP\\* | 20 |" in found
    assert "| 7 s | 8 | 1.5 GiB |" in found
    assert "in the search, on a GPU: 1.00 s" in found
