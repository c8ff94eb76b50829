"""run.json of earlier versions is read; what is not ours, or says too little, is refused in words."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from trim_prune import TrimPruneError, prune
from trim_prune.evaluation.measure import keep, show
from trim_prune.evaluation.protocol import evaluation
from trim_prune.formats.convert import pack_model
from trim_prune.report.compare import compare_runs
from trim_prune.report.derived import derive
from trim_prune.report.run import read_run
from trim_prune.report.words import size
from trim_prune.report.write import write_report
from trim_prune.run_facts import read_facts

LATER = {
    "facts": ("hub_id", "license", "memory", "output_error_inputs", "evaluations"),
    "recipe": ("pattern", "permute", "correction", "recapture"),
    "linear": ("weight", "output_error", "steps", "pattern", "permuted", "tokens"),
}
"""What the first version did not write."""


def aged(folder):
    """The folder with its run.json as the first version would have written it."""
    file = folder / "run.json"
    facts = json.loads(file.read_text())
    for part, names in (facts, LATER["facts"]), (facts["recipe"], LATER["recipe"]):
        for name in names:
            part.pop(name, None)
    for linear in facts["linears"]:
        for name in LATER["linear"]:
            del linear[name]
    file.write_text(json.dumps(facts))
    return folder


def test_a_run_of_the_first_version_is_reported_and_compared(runs, run_folder, pages):
    folder = aged(run_folder("trim"))
    write_report(folder)
    assert "its magnitude times the norm of its input (Wanda)" in (folder / "report.html").read_text()
    now = compare_runs([runs / "trim", folder])
    assert set(now["overlaps"][str(folder)].values()) == {1.0}
    linears = read_facts(runs / "trim")["linears"]
    assert [linear["weight"] for linear in read_facts(folder)["linears"]] == [linear["weight"] for linear in linears]


def test_another_run_goes_on_from_a_run_of_the_first_version(llama_folder, tmp_path):
    recipe = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}
    prune(llama_folder, recipe, out=tmp_path / "new")
    aged(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    changed = recipe | {"sparsity": 0.7}
    results = [
        prune(llama_folder, changed, out=tmp_path / f"from-{name}", from_run=tmp_path / name, from_block=1)
        for name in ("old", "new")
    ]
    first, second = ([linear.prune_count for linear in result.linears] for result in results)
    assert first == second
    assert [result.sparsity for result in results[:1]] == [result.sparsity for result in results[1:]]


BAD = {
    "a list": ("[1, 2]", r"is not of a prune(.|\n)*move the file away"),
    "of another program": ('{"version": 1, "run_id": "a"}', "is not of a prune"),
    "no JSON": ("{", "run.json is not JSON"),
    "of a later version": ('{"version": 9, "recipe": {}, "linears": []}', r"of another version(.|\n)*9(.|\n)*upgrade"),
    "without results": ('{"version": 1, "recipe": {}}', r"incomplete(.|\n)*field required(.|\n)*prune again"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_ours_is_refused_by_every_reader(case, run_folder, llama_folder, tmp_path):
    content, message = BAD[case]
    folder = run_folder("trim")
    (folder / "run.json").write_text(content)
    for read in (write_report, lambda folder: compare_runs([folder, folder])):
        with pytest.raises(TrimPruneError, match=message):
            read(folder)
    with pytest.raises(TrimPruneError, match=message):
        prune(llama_folder, {"sparsity": 0.5}, "text", out=tmp_path / "out", from_run=folder, from_block=1)
    warnings = []
    assert keep(folder, [], warnings.append) is False
    assert "the results are not kept" in warnings[0]
    assert (folder / "run.json").read_text() == content
    pack_model(folder, tmp_path / "packed")  # which it needs for patterns only


def test_what_is_missing_is_named_with_the_version_that_wrote_it(run_folder):
    folder = run_folder("trim")
    facts = json.loads((folder / "run.json").read_text())
    del facts["linears"][3]["prune_count"]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(TrimPruneError, match=r"linears\.3\.prune_count: field required(.|\n)*of trim-kernels \d"):
        write_report(folder)


@pytest.mark.parametrize("name", ["trim", "masked"])
def test_a_packed_folder_has_a_report_that_is_true_of_it(name, run_folder, tmp_path, monkeypatch):
    source, packed = run_folder(name), tmp_path / "packed"
    (source / "report.html").write_text("of the dense folder")
    pack_model(source, packed)
    assert (packed / "report.html").read_text() == "not drawn"
    card, sizes = (packed / "README.md").read_text(), json.loads((packed / "report.json").read_text())["bytes"]
    assert "from_pretrained('packed', dtype" not in card
    assert "library_name" not in card
    assert f"- **Size on disk.** {size(sizes['packed'])}: of pruned tensors, the values that stay" in card
    assert sizes["packed"] == (packed / "packed-model.safetensors").stat().st_size
    assert 0 <= sizes["weights"] - (source / "model.safetensors").stat().st_size < 10_000  # names in headers
    names = {}
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1], names)
    assert names["model"].num_parameters() > 0
    # What is measured of it reaches its card.
    found = evaluation("perplexity", "pruned", "packed", {"data": "a.txt"}, {"perplexity": 12.5})
    warnings = []
    assert keep(packed, [found], warnings.append) is True
    show(packed, warnings.append)
    assert warnings == []
    assert "| perplexity | 12.50 |" in (packed / "README.md").read_text()


def test_masks_of_a_packed_folder_are_compared(runs, tmp_path):
    pack_model(runs / "nm", tmp_path / "packed")
    assert set(compare_runs([runs / "nm", tmp_path / "packed"])["overlaps"]["packed"].values()) == {1.0}
    histograms = [derive(read_run(folder))["row_histograms"] for folder in (runs / "nm", tmp_path / "packed")]
    assert histograms[0] == histograms[1]


def test_what_a_person_wrote_is_packed_as_it_is(run_folder, tmp_path):
    source = run_folder("trim")
    (source / "README.md").write_text("# mine\n")
    pack_model(source, tmp_path / "packed")
    assert (tmp_path / "packed" / "README.md").read_text() == "# mine\n"


def test_weights_that_are_missing_or_cut_are_told(run_folder, invoke):
    folder = run_folder("trim")
    weights = folder / "model.safetensors"
    for spoil, message in (
        (lambda: weights.write_bytes(weights.read_bytes()[:-100]), "not a readable safetensors file"),
        (weights.unlink, "the model folder has no weights"),
    ):
        spoil()
        code, printed, errors = invoke("report", folder)
        assert (code, printed) == (2, "")
        assert message in errors


def test_a_structured_run_is_none_to_go_on_from(run_folder, llama_folder, tmp_path):
    folder = run_folder("ragged")
    with pytest.raises(TrimPruneError, match="the earlier run took whole heads and channels"):
        prune(llama_folder, {"sparsity": 0.5}, "text", out=tmp_path / "out", from_run=folder, from_block=1)
