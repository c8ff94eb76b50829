"""What report.html and report.json say, and that they never cost a model."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from trim_kernels import unpack_bits
from trim_prune import TrimPruneError, prune
from trim_prune.report import plots, write
from trim_prune.report.evaluated import figure_words
from trim_prune.report.files import file_sizes
from trim_prune.report.rows import BINS, histogram
from trim_prune.report.run import kind_of, read_run, short_names
from trim_prune.report.words import duration, recipe_words, size

BASE = {"sparsity": 0.5, "samples": 2, "seqlen": 16}


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["trim", "best", "nm"])
def test_a_page_is_one_file_that_asks_for_nothing(name, runs):
    page = Page(page_of(runs / name))
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"} == set()
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,")), attributes
    assert "url(http" not in page_of(runs / name)
    assert "@import" not in page_of(runs / name)


@pytest.mark.parametrize("name", ["trim", "best", "nm"])
def test_figures_have_the_colours_of_the_page_and_names_of_their_own(name, runs):
    page = page_of(runs / name)
    figures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(figures) >= {"trim": 13, "best": 11, "nm": 2}[name]
    for figure in figures:
        ElementTree.fromstring(figure)  # well-formed
        assert not re.search(r"#0101|#0102|<metadata|<\?xml", figure)
        assert "currentColor" in figure
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(identifiers)) == len(identifiers)
    for reference in re.findall(r'(?:url\(|href=")#([^")]*)', page):
        assert reference in identifiers


def test_a_page_tells_the_facts_of_the_run(runs):
    text = Page(page_of(runs / "trim")).text
    facts = json.loads((runs / "trim" / "run.json").read_text())
    sparsity = facts["sparsity"]
    for key, whole in (
        ("of_prunable", "prunable_weights"),
        ("of_non_embedding", "non_embedding_parameters"),
        ("of_all", "all_parameters"),
    ):
        assert f"{sparsity[key]:.4%}" in text
        assert f"of {sparsity[whole]}" in text
    assert "its magnitude times the norm of its input (Wanda)" in text
    assert "over the vectors that the row search saw" in text
    assert "No linear needed a fallback" in text
    assert "zeros are stored like any other value" in text
    assert "Not evaluated yet" in text
    for linear in facts["linears"]:
        assert linear["name"] in text
        assert f"{linear['quality']:.4f}" in text
        assert f"{linear['output_error']:.4f}" in text


def test_kinds_whose_rows_are_not_drawn_are_counted(run_folder, pages, monkeypatch):
    monkeypatch.setattr(plots, "MAX_KINDS", 5)
    folder = run_folder("trim")
    write.write_report(folder)
    text = Page(page_of(folder)).text
    assert "Kinds of linear whose rows are not drawn, and are in report.json: 2." in text
    assert "of the parameters without embeddings and head" in text


def test_what_was_not_measured_is_said(runs):
    text = Page(page_of(runs / "nm")).text
    assert "The output error of the linears was not measured" in text
    assert "all rows lose the same number of weights" in text
    assert "sparse tensor cores for this pattern" in text
    assert "Row search" not in text


def test_fallbacks_and_evaluations_are_shown(run_folder, pages):
    protocol = {"data": "held-out.txt", "text_sha256": "ab" * 32, "seqlen": 512}
    evaluations = [
        {"kind": "perplexity", "of": of, "model": of, "protocol": protocol, "results": {"perplexity": value}}
        for of, value in (("dense", 15.25), ("pruned", 30.084))
    ]
    folder = run_folder("best", evaluations=evaluations)
    linears = json.loads((folder / "run.json").read_text())["linears"]
    linears[3]["steps"] = ["damping 0.1", "float64"]
    (folder / "run.json").write_text(json.dumps(read_run(folder).facts | {"linears": linears}))
    write.write_report(folder)
    text = Page(page_of(folder)).text
    assert "damping 0.1; float64" in text
    assert "30.08 dense 15.25" in text
    assert "data held-out.txt, text sha256 abababababab, seqlen 512" in text
    card = (folder / "README.md").read_text()
    assert "| perplexity | 15.25 | 30.08 |" in card


def test_nothing_from_a_run_is_taken_for_html(run_folder, pages):
    folder = run_folder("trim", model="<script>alert(1)</script>", warnings=["mind <b>the</b> gap & $x_1$"])
    write.write_report(folder)
    page = page_of(folder)
    assert "<script>" not in page
    assert "mind &lt;b&gt;the&lt;/b&gt; gap &amp; $x_1$" in page


def test_report_json_adds_the_rows_the_blocks_and_the_sizes(runs):
    folder = runs / "trim"
    derived, facts = (json.loads((folder / name).read_text()) for name in ("report.json", "run.json"))
    masks = load_file(folder / "masks.safetensors")
    for linear in facts["linears"]:
        rows, columns = linear["shape"]
        kept = unpack_bits(masks[f"{linear['name']}.weight"], columns).sum(dim=1)
        shares = ((columns - kept) / columns).tolist()
        expected = [0] * BINS
        for share in shares:
            expected[min(int(share * BINS + 1e-6), BINS - 1)] += 1
        assert derived["row_histograms"][linear["name"]] == expected
        assert sum(expected) == rows
    assert [block["block"] for block in derived["blocks"]] == [0, 1]
    assert derived["bytes"]["weights"] == (folder / "model.safetensors").stat().st_size
    assert derived["bytes"]["masks"] == (folder / "masks.safetensors").stat().st_size
    saved = 4 * facts["sparsity"]["pruned"] - facts["sparsity"]["prunable_weights"] / 8
    assert derived["bytes"]["packed"] == round(derived["bytes"]["weights"] - saved)


def test_sizes_count_every_shard_in_its_type(tokenizer, text, tmp_path):
    from tiny_models import make_model, save_model

    model = make_model("gpt_neox", dtype=torch.bfloat16)
    source = save_model(tmp_path / "source", model, tokenizer, max_shard_size="40KB")
    result = prune(source, BASE, [text], out=tmp_path / "out")
    found = file_sizes(tmp_path / "out")
    assert found["weights"] == sum(file.stat().st_size for file in (tmp_path / "out").glob("model-*.safetensors"))
    saved = 2 * result.sparsity.pruned - result.sparsity.prunable_weights / 8
    assert found["packed"] == round(found["weights"] - saved)


@given(st.integers(1, 200), st.data())
def test_a_row_lies_in_the_bin_of_its_share(columns, data):
    pruned = data.draw(st.integers(0, columns))
    found = histogram(torch.tensor([pruned]), columns)
    place = found.index(1)
    assert sum(found) == 1
    assert place * columns <= pruned * BINS <= (place + 1) * columns


@pytest.mark.parametrize("missing", [["jinja2"], ["jinja2", "matplotlib"]])
def test_without_the_extra_there_is_one_warning_and_no_page(missing, llama_folder, text, tmp_path, monkeypatch):
    find = write.find_spec
    monkeypatch.setattr(write, "find_spec", lambda name: None if name in missing else find(name))
    result = prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert result.warnings == [
        f"no page is written: {' and '.join(missing)} not installed: pip install 'trim-kernels[report]'"
    ]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["warnings"] == result.warnings
    assert not (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "README.md").exists()
    with pytest.raises(TrimPruneError, match=r"needs jinja2(.|\n)*pip install 'trim-kernels\[report\]'"):
        write.require_report()


def test_a_report_that_fails_does_not_cost_the_model(llama_folder, text, tmp_path, monkeypatch, leftovers):
    def fail(*args):
        raise ZeroDivisionError("a bug in a plot")

    monkeypatch.setattr(write, "derive", fail)
    result = prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert len(result.warnings) == 1
    assert "no report was written: ZeroDivisionError: a bug in a plot" in result.warnings[0]
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert leftovers(tmp_path) == ["out"]
    assert "a bug in a plot" in (tmp_path / "out" / "events.jsonl").read_text()


def test_the_command_makes_the_same_report_again(run_folder, runs, invoke, pages):
    folder = run_folder("trim")
    for name in ("report.html", "report.json", "README.md"):
        (folder / name).unlink()
    code, printed, errors = invoke("report", folder)
    assert (code, errors) == (0, "")
    assert printed == f"written to {folder / 'report.html'}\n"
    for name in ("report.html", "report.json", "README.md"):
        assert (folder / name).read_bytes() == (runs / "trim" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no run.json to read"), ("{", "run.json is not JSON"), ('{"version": 99}', "of another version")],
    ids=["none", "broken", "other version"],
)
def test_a_folder_without_a_run_is_refused(content, message, tmp_path, invoke):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    code, printed, errors = invoke("report", tmp_path)
    assert (code, printed) == (2, "")
    assert message in errors


@pytest.mark.parametrize("content", [None, b"not safetensors"], ids=["none", "broken"])
def test_masks_that_cannot_be_read_are_an_error_in_words(content, run_folder, invoke):
    folder = run_folder("trim")
    (folder / "masks.safetensors").unlink()
    if content is not None:
        (folder / "masks.safetensors").write_bytes(content)
    code, printed, errors = invoke("report", folder)
    assert (code, printed) == (2, "")
    assert "the masks of the run cannot be read" in errors


def test_linears_are_named_by_their_place_in_the_block():
    def kind(name, block=3):
        return kind_of({"name": name, "block": block})

    assert kind("model.layers.3.self_attn.q_proj") == "self_attn.q_proj"
    assert kind("model.layers.3.mlp.experts.12.up_proj") == "mlp.experts.*.up_proj"
    assert kind("strange") == "strange"
    assert short_names(["a.q", "b.k"]) == {"a.q": "q", "b.k": "k"}
    assert short_names(["a.q", "b.q"]) == {"a.q": "a.q", "b.q": "b.q"}


def test_a_method_of_a_plug_in_has_words_too(runs):
    facts = json.loads((runs / "trim" / "run.json").read_text())
    facts["recipe"] |= {"score": "mine", "solver": "yours", "layers": "theirs", "rows": "its"}
    words = " ".join(recipe_words(facts))
    for part in ("the score mine", "The solver yours", "The layer budget theirs", "the row budget its"):
        assert part in words


def test_rates_are_plain_numbers():
    rates = [figure_words("prefill", rate) for rate in (27463.4, 1000.0, 999.94, 3.14159, 0.0123456)]
    assert rates == ["27463", "1000", "999.9", "3.142", "0.01235"]


def test_sizes_and_times_are_for_people():
    assert [size(n) for n in (0, 999, 1024, 1 << 20, 3.14159 * 2**30)] == [
        "0 bytes",
        "999 bytes",
        "1.00 KiB",
        "1.00 MiB",
        "3.14 GiB",
    ]
    assert [duration(s) for s in (0.04, 59.9, 61.2, 7290)] == ["0.0 s", "59.9 s", "1 min 1 s", "2 h 1 min"]
