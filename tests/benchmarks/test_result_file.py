"""The file of results is whole after every figure, and never mixes two machines or commits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.figures import Figure, Missing
from benchmarks.result_file import ResultFile, slug
from benchmarks.tables import HEADINGS, table

MACHINE = {"device": "NVIDIA H200", "commit": "abc", "date": "2026-11-23"}
FIGURE = Figure(
    op="row_mask",
    variant="packed",
    backend="cuda",
    linear="q",
    rows=8,
    columns=16,
    dtype="bfloat16",
    milliseconds=1.0,
    milliseconds_20=0.9,
    milliseconds_80=1.1,
    rounds=10,
    timing="graph",
    gigabytes_per_second=2000.0,
    teraflops=None,
    floor_milliseconds=0.5,
    percent_of_floor=50.0,
    times_reference=9.0,
    times_baseline=None,
    baseline="",
    peak_bytes=1_500_000,
)
MISSING = Missing("row_mask", "packed", "triton", "q", 8, 16, "bfloat16", why="no Triton", wrong=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "nvidia-h200.json"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_figure_is_written_at_once(path):
    results = ResultFile(path, MACHINE, go_on=False)
    for count, backend in enumerate(("cuda", "triton"), start=1):
        results.add(replace(FIGURE, backend=backend))
        assert [figure["backend"] for figure in read(path)["figures"]] == ["cuda", "triton"][:count]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_later_figure_replaces_the_earlier_one_and_what_was_missing(path):
    results = ResultFile(path, MACHINE, go_on=False)
    results.add(FIGURE)
    results.add(MISSING)
    results.add(replace(FIGURE, milliseconds=2.0))
    results.add(replace(FIGURE, backend="triton"))
    content = read(path)
    assert [(figure["backend"], figure["milliseconds"]) for figure in content["figures"]] == [
        ("cuda", 2.0),
        ("triton", 1.0),
    ]
    assert content["missing"] == []


def test_what_has_no_figure_stays_told(path):
    ResultFile(path, MACHINE, go_on=False).add(MISSING)
    assert read(path)["missing"][0]["why"] == "no Triton"


@pytest.mark.parametrize(
    ("change", "kept"), [({"date": "2026-11-24"}, 1), ({"commit": "abd"}, 0), ({"driver": "1"}, 0)]
)
def test_only_results_of_the_same_machine_and_commit_go_on(path, change, kept):
    ResultFile(path, MACHINE, go_on=False).add(FIGURE)
    again = ResultFile(path, {**MACHINE, **change}, go_on=True)
    again.write()
    assert len(read(path)["figures"]) == kept
    assert again.has(op="row_mask", variant="packed", rows=8, columns=16, dtype="bfloat16") == bool(kept)
    assert not again.has(op="row_mask", variant="bool", rows=8, columns=16, dtype="bfloat16")


def test_a_new_run_starts_anew(path):
    ResultFile(path, MACHINE, go_on=False).add(FIGURE)
    ResultFile(path, MACHINE, go_on=False).write()
    assert read(path)["figures"] == []


def test_steps_and_figures_share_the_file(path):
    ResultFile(path, MACHINE, go_on=False).add(FIGURE)
    ResultFile(path, MACHINE, go_on=True).put("steps", [{"name": "build"}])
    content = read(path)
    assert (len(content["figures"]), content["steps"]) == (1, [{"name": "build"}])


def test_a_device_names_its_file():
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("NVIDIA GeForce RTX 4090 (24 GB)") == "nvidia-geforce-rtx-4090-24-gb"


def test_the_table_has_a_line_for_each_figure():
    lines = table([FIGURE, replace(FIGURE, teraflops=3.0, gigabytes_per_second=None, backend="a longer name")]).split(
        "\n"
    )
    assert lines[0].split("  ")[0] == HEADINGS[0]
    assert len({len(line) for line in lines}) == 1
    assert "2000 GB/s" in lines[1]
    assert "3.0 TFLOP/s" in lines[2]
