"""trim-prune compare: unlike models and unlike protocols are told apart."""

from __future__ import annotations

import json
import re

import pytest
import torch
from architectures import ARCHITECTURES, make_architecture
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from trim_kernels import unpack_bits
from trim_prune import prune
from trim_prune.report.compare import compare_runs
from trim_prune.report.compare_page import compare_page
from trim_prune.report.derived import derive
from trim_prune.report.overlap import overlap
from trim_prune.report.page_file import check_page
from trim_prune.report.run import read_run

PROTOCOL = {"data": "a.txt", "text_sha256": "12" * 32, "seqlen": 512}


def measured(value, **changes):
    protocol, results = PROTOCOL | changes, {"perplexity": value}
    return {"kind": "perplexity", "of": "pruned", "model": "m", "protocol": protocol, "results": results}


@given(st.integers(1, 4), st.integers(1, 19), st.integers(0, 99))
def test_an_overlap_is_what_both_prune_of_what_either_does(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.rand(rows, columns, generator=generator) < 0.5 for _ in range(2))
    either = int((~ours | ~theirs).sum())
    expected = int((~ours & ~theirs).sum()) / either if either else None
    assert overlap(ours, theirs) == expected
    assert overlap(ours, ours) in (1.0, None)


def test_the_masks_of_two_runs_are_compared_linear_by_linear(runs):
    comparison = compare_runs([runs / "trim", runs / "best"])
    ours, theirs = (load_file(runs / name / "masks.safetensors") for name in ("trim", "best"))
    found = comparison["overlaps"]["best"]
    assert found.keys() == {name.removesuffix(".weight") for name in ours}
    for linear in json.loads((runs / "trim" / "run.json").read_text())["linears"]:
        name, columns = linear["name"], linear["shape"][1]
        first, second = (~unpack_bits(masks[f"{name}.weight"], columns) for masks in (ours, theirs))
        assert found[name] == pytest.approx(int((first & second).sum()) / int((first | second).sum()))


def test_the_table_and_the_page_show_each_run(runs, tmp_path, invoke):
    out = tmp_path / "compare.html"
    code, printed, errors = invoke("compare", runs / "trim", runs / "best", runs / "nm", "--out", out)
    assert (code, errors) == (0, "")
    page = out.read_text(encoding="utf-8")
    for name in ("trim", "best", "nm"):
        assert name in page
        assert name in printed
    assert "keep 2 of 4" in page
    assert page.count("<svg ") == 4
    assert "<script" not in page
    assert "Nothing was measured of two of them" in page


def test_a_page_replaces_nothing_but_a_page(run_folder, invoke, tmp_path):
    folders = [run_folder("trim"), run_folder("nm")]
    out = tmp_path / "new" / "deep" / "compare.html"
    assert invoke("compare", *folders, "--out", out)[0] == 0
    check_page(out, overwrite=False)  # the next may take its place
    notes = tmp_path / "notes.html"
    notes.write_text("<p>mine")
    (tmp_path / "folder.html").mkdir()
    weights = folders[0] / "model.safetensors"
    for path, message in (
        (weights, "a name that ends with .html"),
        (notes, "the output file exists and is no page of trim-prune"),
        (tmp_path / "folder.html", "the output is a folder"),
        (notes / "page.html", "the output cannot be written"),
    ):
        before = weights.read_bytes()
        code, printed, errors = invoke("compare", *folders, "--out", path)
        assert (code, printed) == (2, "")
        assert message in errors
        assert (weights.read_bytes(), notes.read_text()) == (before, "<p>mine")
    check_page(notes, overwrite=True)


def test_the_facts_are_json(runs, invoke):
    code, printed, _ = invoke("compare", runs / "trim", runs / "nm", "--json")
    assert code == 0
    found = json.loads(printed)
    assert [run["name"] for run in found["runs"]] == ["trim", "nm"]
    assert [run["sparsity"] for run in found["runs"]] == [0.6, 0.5]


def test_perplexities_of_one_protocol_stand_side_by_side(run_folder, invoke, tmp_path):
    folders = [
        run_folder("trim", evaluations=[measured(20.5, data="b.txt"), measured(1.0, seqlen=8)]),
        run_folder("best", evaluations=[measured(10.25)]),
        run_folder("nm"),
    ]
    code, printed, _ = invoke("compare", *folders, "--out", tmp_path / "compare.html")
    assert code == 0
    assert "20.50" in printed
    assert "10.25" in printed
    assert "not compared" not in printed
    assert "1.00" not in (tmp_path / "compare.html").read_text()


def test_perplexities_of_unlike_protocols_are_not_compared_and_the_difference_is_named(run_folder, invoke, tmp_path):
    folders = [
        run_folder("trim", evaluations=[measured(20.5)]),
        run_folder("best", evaluations=[measured(10.25, seqlen=2048)]),
    ]
    code, printed, _ = invoke("compare", *folders, "--out", tmp_path / "compare.html")
    reason = "The perplexities of trim and best are not compared: seqlen 512 and 2048."
    page = (tmp_path / "compare.html").read_text()
    assert code == 0
    assert reason in printed
    assert reason in page
    for figure in ("20.50", "10.25"):
        assert figure not in printed
        assert figure not in page


def test_each_pair_that_is_not_compared_is_named_once(run_folder):
    lengths = {"trim": 512, "best": 2048, "nm": 128}
    folders = [run_folder(name, evaluations=[measured(9.5, seqlen=length)]) for name, length in lengths.items()]
    assert compare_runs(folders)["refused"] == [
        f"The perplexities of {first} and {second} are not compared: seqlen {lengths[first]} and {lengths[second]}."
        for first, second in (("trim", "best"), ("trim", "nm"), ("best", "nm"))
    ]


def test_models_of_unlike_names_are_told(run_folder, invoke):
    folders = [run_folder("trim", model="a/llama"), run_folder("nm", model="b/other")]
    note = "The models have unlike names: llama, other."
    assert compare_runs(folders)["notes"] == [note]
    assert note in invoke("compare", *folders)[1]


def test_a_run_has_one_style_in_all_figures(run_folder):
    folders = [run_folder("trim"), run_folder("best"), run_folder("nm")]
    comparison = compare_runs(folders)
    comparison["runs"][0]["blocks"] = [block | {"output_error": None} for block in comparison["runs"][0]["blocks"]]
    colours = {}
    for figure in re.findall(r"<svg .*?</svg>", compare_page(comparison), flags=re.DOTALL):
        legend = figure[figure.index("-legend") :]
        # Of each line there is a mark as well.
        lines = list(dict.fromkeys(re.findall(r"stroke: var\((--line-\d)\)", legend)))
        names = re.findall(r">(\w+)</text>", legend)
        assert len(names) == len(lines) > 0
        for name, line in zip(names, lines, strict=True):
            colours.setdefault(name, set()).add(line)
    assert colours == {"trim": {"--line-0"}, "best": {"--line-1"}, "nm": {"--line-2"}}


def test_unlike_models_are_refused(runs, tokenizer, text, tmp_path, invoke):
    from tiny_models import make_model

    base = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"}
    prune(make_model("llama", intermediate_size=40), base, tokenizer=tokenizer, out=tmp_path / "narrow")
    prune(make_model("opt"), base, tokenizer=tokenizer, out=tmp_path / "opt")
    for name, message in (("narrow", "40 x 32 in narrow"), ("opt", "no such linear in opt")):
        code, printed, errors = invoke("compare", runs / "trim", tmp_path / name)
        assert (code, printed) == (2, "")
        assert "the runs are of unlike models" in errors
        assert message in errors


def test_one_run_is_no_comparison_and_the_same_names_are_told_apart(runs, run_folder, invoke):
    assert "two folders or more" in invoke("compare", runs / "trim")[2]
    copy = run_folder("trim")
    assert [run["name"] for run in compare_runs([runs / "trim", copy])["runs"]] == [str(runs / "trim"), str(copy)]
    assert set(compare_runs([runs / "trim", copy])["overlaps"][str(copy)].values()) == {1.0}


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gpt-oss"])
def test_linears_whose_masks_lie_otherwise_are_told_by_their_outputs_or_by_the_tensors_of_files(
    name, tokenizer, text, tmp_path
):
    if name not in ARCHITECTURES:
        pytest.skip("not in this version of transformers")
    folders, linears = [tmp_path / choice for choice in ("uniform", "trim")], []
    for folder in folders:
        recipe = {"sparsity": 0.5, "rows": folder.name, **ARCHITECTURES[name].options, "samples": 4, "seqlen": 16}
        linears = prune(make_architecture(name), recipe, [text], tokenizer=tokenizer, out=folder).linears
    found = compare_runs(folders)["overlaps"]["trim"]
    joined = {linear.name for linear in linears if name == "mixtral" and not linear.weight.startswith(linear.name)}
    tensors = {key for key in found if re.search(r"experts\.\d\.w[123]$", key)}
    assert found.keys() == {linear.name for linear in linears} - joined | tensors
    assert len(tensors) == (2 * 4 * 3 if joined else 0)
    assert None not in found.values()
    for folder in folders:
        run = read_run(folder)
        derived = derive(run)
        assert derived["row_histograms"].keys() == found.keys()
        assert sum(map(sum, derived["row_histograms"].values())) == sum(linear.shape[0] for linear in linears)
        assert 0 < derived["bytes"]["packed"] < derived["bytes"]["weights"]
        assert (folder / "report.html").is_file()
