"""A disk that fills up is found before any work, or leaves a run that can go on."""

from __future__ import annotations

import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, prune
from trim_prune.runs.journal import unfinished

RECIPE = {"sparsity": 0.5, "samples": 3, "seqlen": 16, "rows": "uniform"}


@pytest.fixture
def folder(tokenizer, tmp_path):
    return save_model(tmp_path / "model", make_model("llama", num_hidden_layers=4), tokenizer, max_shard_size="40KB")


@contextmanager
def files_up_to(size):
    """A quota of a kind: no file of this process grows, or is written, beyond that size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount")
    if done.returncode:
        pytest.skip("mounting is not allowed")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_an_output_that_does_not_fit_is_refused_before_anything_is_pruned(folder, text, tmp_path, leftovers):
    events = []
    with files_up_to(20_000), pytest.raises(TrimPruneError, match=r"the output cannot be written(.|\n)*free space"):
        prune(folder, RECIPE, [text], out=tmp_path / "out", on_event=events.append)
    assert {event.kind for event in events} <= {"start", "phase", "warning"}
    assert leftovers(tmp_path, "model") == []


def test_a_full_disk_is_refused_before_anything_is_pruned(folder, text, small_disk):
    (small_disk / "filler").write_bytes(bytes(900 << 10))
    events = []
    with pytest.raises(TrimPruneError, match=r"the output cannot be written(.|\n)*No space left"):
        prune(folder, RECIPE, [text], out=small_disk / "out", on_event=events.append)
    assert {event.kind for event in events} <= {"start", "phase", "warning"}
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_quota_that_is_met_on_the_way_leaves_a_run_that_goes_on(folder, text, tmp_path, content):
    out, events = tmp_path / "out", []
    prune(folder, RECIPE, [text], out=tmp_path / "whole")

    def met(event):
        events.append(event)
        if event.kind == "block" and event.data["block"] == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with files_up_to(1 << 30), pytest.raises(TrimPruneError, match="the output cannot be written"):
        prune(folder, RECIPE, [text], out=out, on_event=met)
    assert unfinished(out).is_dir()
    prune(folder, RECIPE, [text], out=out, on_event=events.append)
    assert any(event.kind == "resumed" for event in events)
    assert content(out) == content(tmp_path / "whole")


def test_a_disk_that_fills_up_on_the_way_leaves_a_run_that_goes_on(folder, text, small_disk, tmp_path, content):
    out, events = small_disk / "out", []
    prune(folder, RECIPE, [text], out=tmp_path / "whole")

    def fill(event):
        events.append(event)
        if event.kind == "block" and event.data["block"] == 1:
            with (small_disk / "filler").open("wb", 0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1024))

    with pytest.raises(TrimPruneError, match="the output cannot be written"):
        prune(folder, RECIPE, [text], out=out, on_event=fill)
    (small_disk / "filler").unlink()
    prune(folder, RECIPE, [text], out=out, on_event=events.append)
    assert any(event.kind == "resumed" for event in events)
    assert content(out) == content(tmp_path / "whole")
