"""The grid of combinations: measured once, gone on with, told as a table and a plot."""

from __future__ import annotations

import json

import pytest
from tiny_models import linears_of, make_model

from benchmarks import quality

AMOUNTS = {"sparsities": "0.5,0.625", "samples": "4", "seqlen": 16, "windows": 2, "window": 32}


@pytest.fixture
def measure(llama_folder, text_file, tmp_path):
    """Run the benchmark on a tiny model; returns what the file holds."""

    def run(methods, **options):
        amounts = AMOUNTS | options
        quality.main(
            llama_folder, text_file, methods, dtype="float32", batch_size=4, out=tmp_path / "quality.json", **amounts
        )
        return json.loads((tmp_path / "quality.json").read_text())

    return run


def test_every_row_has_its_exact_count_and_its_perplexity(measure, tmp_path):
    content = measure("Wanda;Wanda + OWL")
    weights = sum(linear.weight.numel() for linear in linears_of(make_model("llama"), "llama").values())
    assert [(row["method"], row["sparsity"]) for row in content["rows"]] == [
        ("Wanda", 0.5),
        ("Wanda + OWL", 0.5),
        ("Wanda", 0.625),
        ("Wanda + OWL", 0.625),
    ]
    dense = content["dense_perplexity"]
    for row in content["rows"]:
        assert row["pruned"] == round(row["sparsity"] * weights)
        assert row["ratio_to_dense"] == pytest.approx(row["perplexity"] / dense)
        assert row["steps"] == {}
    table = (tmp_path / "quality.md").read_text()
    assert "| method | 50% | 62.5% |" in table
    assert f"| Wanda | {content['rows'][0]['perplexity']:.1f} (" in table
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_not_measured_again(measure, monkeypatch):
    first = measure("Wanda")
    pruned = []
    prune = quality.prune
    monkeypatch.setattr(quality, "prune", lambda *args, **options: pruned.append(args[1]) or prune(*args, **options))
    second = measure("Wanda;magnitude")
    assert second["rows"][:2] == first["rows"]
    assert [recipe.score for recipe in pruned] == ["magnitude", "magnitude"]


def test_another_recipe_of_the_same_name_is_measured(measure):
    first = measure("", also=['mine={"rows": "uniform"}'], sparsities="0.5")
    second = measure("", also=['mine={"rows": "uniform", "score": "ria"}'], sparsities="0.5")
    assert second["rows"][:1] == first["rows"]
    assert [row["recipe"]["score"] for row in second["rows"]] == ["wanda", "ria"]


def test_a_sparsity_that_is_missed_is_shown(measure, tmp_path):
    measure("", also=['floor={"rows": "trim", "trim": {"rounding": "floor", "iterations": 1}}'], sparsities="0.55")
    content = json.loads((tmp_path / "quality.json").read_text())
    (row,) = content["rows"]
    assert row["pruned"] != round(0.55 * row["prunable_weights"])
    assert f"s; {row['pruned'] / row['prunable_weights']:.4%}) |" in (tmp_path / "quality.md").read_text()


@pytest.mark.parametrize("given", ["mine", "mine=", "mine={", "=[1]", 'mine=["a"]'])
def test_a_combination_that_is_no_recipe_is_refused_before_any_work(measure, given):
    with pytest.raises(SystemExit, match="--also: expected NAME="):
        measure("", also=[given])


def test_rows_of_another_protocol_are_not_mixed_in(measure):
    measure("magnitude")
    with pytest.raises(SystemExit, match=r"another protocol(.|\n)*--out"):
        measure("magnitude", window=16)


def test_an_unknown_method_is_refused_before_any_work(measure):
    with pytest.raises(SystemExit, match="unknown method 'Wandas': known are magnitude, Wanda,"):
        measure("Wanda;Wandas")


def test_calibration_and_judgement_share_no_text(text_file):
    calibration, held_out = quality.split(text_file)
    whole = text_file.read_text()
    assert calibration[0] + held_out.documents[0] == whole
    assert 0.5 < len(calibration[0]) / len(whole) < 0.75


def test_a_combination_may_be_given_by_its_recipe(measure):
    content = measure("", also=['narrow={"rows": "optimal", "optimal": {"spread": 0.05}}'], sparsities="0.5")
    assert [(row["method"], row["recipe"]["optimal"]["spread"]) for row in content["rows"]] == [("narrow", 0.05)]
