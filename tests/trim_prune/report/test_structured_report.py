"""What is told of a structured prune: page, report.json, model card, and two of them compared."""

from __future__ import annotations

import ast
import json
import re

import pytest

from trim_prune import TrimPruneError
from trim_prune.models.license import card_data
from trim_prune.report.compare import compare_runs
from trim_prune.report.compare_page import run_rows
from trim_prune.report.write import write_report


def facts_of(folder, name="run.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def plain(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_the_page_tells_what_every_block_keeps(smaller):
    page = (smaller / "ragged" / "report.html").read_text(encoding="utf-8")
    text, facts = plain(page), facts_of(smaller / "ragged")
    parameters = facts["parameters"]
    assert f"{parameters['share']:.4%} {parameters['pruned']} of {parameters['dense']}" in text
    assert f"asked: {parameters['target']}" in text
    for part in facts["parts"]:
        assert f"block {part['block']}, {part['kind']} {len(part['kept'])} of {part['units']}" in text
        assert f"{part['error']:.4f} → {part['repaired_error']:.4f}" in text
    assert "A fresh process loaded the folder by trim_prune.load: 27232 parameters" in text
    assert "logits equal within 1.5e-07" in text
    speed = facts["speed"]
    assert f"{speed['pruned'] / speed['dense']:.2f} times" in text
    assert "Mode ragged: each block gets its own size" in text
    assert page.count("<svg ") == 4
    assert "<script" not in page


def test_of_masked_mode_the_share_that_is_not_zero_is_told(smaller, invoke):
    parameters = facts_of(smaller / "masked")["parameters"]
    assert parameters["pruned"] == parameters["dense"] == 32032
    assert abs(parameters["kept"] - parameters["target"]) <= 48
    share = f"{parameters['kept'] / parameters['dense']:.4%}"
    text = plain((smaller / "masked" / "report.html").read_text(encoding="utf-8"))
    assert f"of the parameters are not zero {share} {parameters['kept']} of 32032, asked: 27227" in text
    code, printed, _ = invoke("compare", smaller / "ragged", smaller / "masked")
    assert code == 0
    assert re.search(rf"masked, layers uniform[^%]*{re.escape(share)}", printed), printed


def test_report_json_has_every_block_also_one_that_keeps_all(smaller):
    facts, derived = (facts_of(smaller / "ragged", name) for name in ("run.json", "report.json"))
    kept = {(part["block"], part["kind"]): len(part["kept"]) for part in facts["parts"]}
    assert [block["block"] for block in derived["blocks"]] == [0, 1]
    for block in derived["blocks"]:
        for kind, part in block["parts"].items():
            assert part["units"] == {"attention": 2, "feed-forward": 48}[kind]
            assert part["kept"] == kept.get((block["block"], kind), part["units"])
    assert derived["bytes"]["weights"] == (smaller / "ragged" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["ragged", "masked"])
def test_the_card_says_how_to_load_it(name, smaller, monkeypatch):
    card = (smaller / name / "README.md").read_text(encoding="utf-8")
    data = card_data(smaller / name / "README.md")
    assert ("library_name" in data, data["tags"]) == (name == "masked", ["pruned", "trim-prune"])
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    ast.parse(snippet)
    names = {}
    monkeypatch.chdir(smaller)
    exec(snippet, names)
    parameters = facts_of(smaller / name)["parameters"]
    assert sum(parameter.numel() for parameter in names["model"].parameters()) == parameters["pruned"]
    kept = f"{parameters['kept']} of {parameters['dense']}"
    assert f"| all parameters | {parameters['kept'] / parameters['dense']:.6f} | {kept} |" in card
    assert f"| share that {'is not zero' if name == 'masked' else 'stays'} of |" in card
    assert "85.00% of 32032 parameters were asked to stay" in card
    assert ("neither smaller nor faster" in card) == (name == "masked")


def test_two_are_compared_by_what_they_keep(smaller, tmp_path, invoke):
    out = tmp_path / "compare.html"
    code, printed, errors = invoke("compare", smaller / "ragged", smaller / "masked", "--out", out)
    assert (code, errors) == (0, "")
    assert "ragged, layers cosine, heads pearson, channels feature, repair affine" in printed
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg ") == 4
    assert "The units that both prune" in plain(page)
    found = compare_runs([smaller / "ragged", smaller / "masked"])
    gone = {}
    for name in ("ragged", "masked"):
        for part in facts_of(smaller / name)["parts"]:
            key = f"block {part['block']}, {part['kind']}"
            gone.setdefault(key, {})[name] = set(range(part["units"])) - set(part["kept"])
    for part, overlap in found["overlaps"]["masked"].items():
        ours, theirs = (gone.get(part, {}).get(name, set()) for name in ("ragged", "masked"))
        assert overlap == (len(ours & theirs) / len(ours | theirs) if ours | theirs else None)


def test_a_comparison_needs_no_weights_and_a_report_does(run_folder, smaller):
    folder = run_folder("ragged")
    (folder / "model.safetensors").unlink()
    assert compare_runs([folder, smaller / "masked"])["runs"][0]["share"] < 1
    with pytest.raises(TrimPruneError, match="the model folder has no weights"):
        write_report(folder)


def test_single_weights_and_whole_heads_are_not_compared(runs, smaller, invoke):
    code, _, errors = invoke("compare", runs / "trim", smaller / "ragged")
    assert code == 2
    assert "the runs are of unlike kinds" in errors
    assert "ragged took whole heads and channels, trim single weights" in errors


def test_what_was_evaluated_is_shown(run_folder):
    protocol = {"data": "held-out.txt", "text_sha256": "ab" * 32, "seqlen": 512}
    measured = {
        "kind": "perplexity",
        "of": "pruned",
        "model": "m",
        "protocol": protocol,
        "results": {"perplexity": 9.5},
    }
    folder = run_folder("ragged", evaluations=[measured])
    write_report(folder)
    assert "| perplexity | 9.50 |" in (folder / "README.md").read_text()


def test_a_run_of_before_units_were_noted_is_read(run_folder):
    folder = run_folder("ragged")
    before = facts_of(folder, "report.json")
    facts = facts_of(folder)
    del facts["units"]
    (folder / "run.json").write_text(json.dumps(facts))
    write_report(folder)
    assert facts_of(folder, "report.json") == before


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("name", ["ragged", "masked"])
def test_a_run_of_before_it_was_noted_what_is_kept_is_read(name, smaller, run_folder):
    parameters = facts_of(smaller / name)["parameters"]
    dense, pruned = parameters["dense"], parameters["pruned"]
    del parameters["kept"]
    folder = run_folder(name, parameters=parameters | {"share": pruned / dense})
    write_report(folder)
    share, kept = ("—", "—") if name == "masked" else (f"{pruned / dense:.6f}", pruned)
    assert f"| all parameters | {share} | {kept} of {dense} |" in (folder / "README.md").read_text(encoding="utf-8")
    assert f"{kept} of {dense}, asked: 27227" in (folder / "report.html").read_text(encoding="utf-8")
    row = run_rows(compare_runs([folder, smaller / "ragged"]))[0]
    assert row[2] == ("—" if name == "masked" else f"{pruned / dense:.4%}")
