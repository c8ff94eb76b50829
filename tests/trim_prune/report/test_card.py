"""The model card: from the facts of the run, and never over what a person wrote."""

from __future__ import annotations

import ast
import json
import re

import pytest
import yaml
from tiny_models import make_model, save_model
from transformers import AutoModelForCausalLM

from trim_prune import prune
from trim_prune.models import load
from trim_prune.models.license import card_data
from trim_prune.report.write import write_report

BASE = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}


def test_a_card_tells_what_was_pruned_and_how_to_load_it(runs, monkeypatch):
    card = (runs / "trim" / "README.md").read_text(encoding="utf-8")
    assert card_data(runs / "trim" / "README.md") == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "sparse", "trim-prune"],
    }
    sparsity = json.loads((runs / "trim" / "run.json").read_text())["sparsity"]
    assert f"| {sparsity['of_prunable']:.6f} | {sparsity['pruned']} of {sparsity['prunable_weights']} |" in card
    assert "Size on disk" in card
    assert "Not evaluated." in card
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    ast.parse(snippet)
    names = {}
    monkeypatch.chdir(runs)
    exec(snippet, names)
    assert type(names["model"]) is type(AutoModelForCausalLM.from_pretrained(runs / "trim"))


def test_name_and_license_of_a_model_from_the_hub_are_copied(tokenizer, tmp_path, monkeypatch):
    source = save_model(tmp_path / "cache", make_model("llama"), tokenizer)
    (source / "README.md").write_text("---\nlicense: mit\n---\n# theirs\n", encoding="utf-8")
    monkeypatch.setattr(load, "download", lambda *_: source)
    prune("org/name", BASE, out=tmp_path / "out")
    data = card_data(tmp_path / "out" / "README.md")
    assert (data["base_model"], data["license"]) == ("org/name", "mit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# org/name, 50.00% pruned" in card
    assert "# theirs" not in card
    assert (source / "README.md").read_text().endswith("# theirs\n")


@pytest.mark.parametrize("change", ["mine", "changed"])
def test_what_a_person_wrote_stays(change, run_folder, invoke):
    folder = run_folder("trim")
    card = folder / "README.md"
    card.write_text("# My notes\n" if change == "mine" else card.read_text().replace("## License", "## My license"))
    before = card.read_bytes()
    assert write_report(folder) is False
    assert card.read_bytes() == before
    assert "was not written by trim-prune, or was changed since: left as it is" in invoke("report", folder)[1]


def test_our_own_card_is_written_again(run_folder):
    folder = run_folder("trim", license="apache-2.0")
    assert write_report(folder) is True
    assert card_data(folder / "README.md")["license"] == "apache-2.0"
    assert write_report(folder) is True


def test_words_of_a_run_are_no_markup(run_folder):
    folder = run_folder("trim", model="a_b*<b>|c", license="x: [")
    write_report(folder)
    card = (folder / "README.md").read_text()
    assert r"# a\_b\*\<b\>\|c, 60.00% pruned" in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "x: ["
