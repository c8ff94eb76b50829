"""A folder under its final name is whole, whatever happens while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, prune
from trim_prune.models import output, shards, staging

BASE = {"sparsity": 0.5, "samples": 2, "seqlen": 16}
SCRIPT = Path(__file__).with_name("staging_script.py")


@pytest.fixture
def sharded(tokenizer, tmp_path):
    return save_model(tmp_path / "source", make_model("llama"), tokenizer, max_shard_size="40KB")


def killed_run(moment, *arguments):
    command = [sys.executable, str(SCRIPT), moment, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done


@pytest.mark.parametrize("moment", ["shard", "verify"])
def test_a_kill_while_saving_leaves_no_half_model_and_the_next_run_cleans_up(
    moment, sharded, text, text_file, tmp_path, leftovers
):
    out = tmp_path / "results" / "out"
    killed_run(moment, sharded, text_file, out, "new")
    assert not out.exists()
    assert leftovers(out.parent) == ["out.unfinished"]
    prune(sharded, BASE, text_file, out=out, resume=False)
    assert leftovers(out.parent) == ["out"]


@pytest.mark.parametrize(("moment", "visible"), [("before renaming", True), ("between renames", False)])
def test_a_kill_while_overwriting_loses_neither_the_old_nor_the_new(
    moment, visible, sharded, text, text_file, tmp_path, leftovers
):
    out = tmp_path / "results" / "out"
    prune(sharded, BASE | {"sparsity": 0.3}, [text], out=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    killed_run(moment, sharded, text_file, out, "overwrite")
    assert out.exists() == visible
    old = out if visible else out.with_name(".out.old")
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    with pytest.raises(TrimPruneError, match="out of reach"):
        prune(sharded, BASE | {"sparsity": 0.99}, [text], out=out, overwrite=True)
    assert leftovers(out.parent) == ["out", "out.unfinished"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    prune(sharded, BASE, text_file, out=out, overwrite=True)
    assert leftovers(out.parent) == ["out"]


@pytest.mark.parametrize("name", ["a[1]", "with space", "näme*"])
def test_odd_names_work(name, llama_folder, text, tmp_path, leftovers):
    (tmp_path / f"{name}.unfinished" / "model").mkdir(parents=True)
    (tmp_path / f"{name}.unfinished" / "journal.jsonl").touch()
    prune(llama_folder, BASE, [text], out=tmp_path / name)
    assert leftovers(tmp_path) == [name]


def test_a_folder_of_ours_by_name_only_is_left_alone(llama_folder, text, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "notes.txt").write_text("mine")
    for resume in (True, False):
        with pytest.raises(TrimPruneError, match=r"no run has left is in the way(.|\n)*out\.unfinished"):
            prune(llama_folder, BASE, [text], out=tmp_path / "out", resume=resume)
    assert (tmp_path / "out.unfinished" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), staging.SafetensorError("I/O error: No space left on device")],
    ids=type,
)
def test_a_failing_write_is_explained_and_leaves_what_was_done(
    error, llama_folder, text, tmp_path, leftovers, monkeypatch
):
    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "write", fail)
        with pytest.raises(TrimPruneError, match=r"the output cannot be written(.|\n)*No space left on device"):
            prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert leftovers(tmp_path) == ["out.unfinished"]
    prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_before_anything_is_done_leaves_nothing(
    error, llama_folder, text, tmp_path, leftovers, monkeypatch
):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(output.Output, "prepare", fail)
    with pytest.raises(error):
        prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert leftovers(tmp_path) == []


def one_more_zero(weight):
    weight[weight != 0] *= (torch.arange(int((weight != 0).sum())) != 0).float()


def one_zero_less(weight):
    row, column = (weight == 0).nonzero()[0]
    weight[row, column] = 1.0


def one_zero_moved(weight):
    (row, column), (kept_row, kept_column) = (weight == 0).nonzero()[0], (weight != 0).nonzero()[0]
    weight[row, column], weight[kept_row, kept_column] = 1.0, 0.0


def one_mask_bit(mask):
    mask[0, 0] ^= 1


@pytest.mark.parametrize("tamper", [one_more_zero, one_zero_less, one_zero_moved, one_mask_bit])
def test_zeros_and_mask_bits_are_counted_in_the_written_files(tamper, llama_folder, text, tmp_path, monkeypatch):
    name, write = "model.layers.0.self_attn.o_proj.weight", shards.Shards.write

    def write_other(files, key, tensor):
        if key == name and (tensor.dtype == torch.uint8) == (tamper is one_mask_bit):
            tensor = tensor.clone()
            tamper(tensor)
        write(files, key, tensor)

    monkeypatch.setattr(shards.Shards, "write", write_other)
    with pytest.raises(TrimPruneError, match=r"the written model is not what was computed") as error:
        prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert name in error.value.where
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused_before_any_work(llama_folder, text, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(TrimPruneError, match=r"exists and is not empty(.|\n)*--overwrite"):
        prune(llama_folder, BASE, [text], out=out)
    with pytest.raises(TrimPruneError, match=r"only a model folder is overwritten(.|\n)*notes.txt"):
        prune(llama_folder, BASE, [text], out=out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_empty_folder_may_be_written_into(llama_folder, text, tmp_path):
    (tmp_path / "out").mkdir()
    prune(llama_folder, BASE, [text], out=tmp_path / "out")
    assert (tmp_path / "out" / "run.json").is_file()


def test_overwrite_replaces_the_whole_folder(llama_folder, text, tmp_path, leftovers):
    out = tmp_path / "out"
    prune(llama_folder, BASE, [text], out=out)
    (out / "old.txt").write_text("old")
    result = prune(llama_folder, BASE | {"sparsity": 0.7}, [text], out=out, overwrite=True)
    assert f'"pruned": {result.sparsity.pruned}' in (out / "run.json").read_text()
    assert not (out / "old.txt").exists()
    assert leftovers(tmp_path) == ["out"]


def test_the_model_is_not_overwritten_by_its_pruned_self(sharded, text):
    with pytest.raises(TrimPruneError, match="the output folder is the model's own"):
        prune(sharded, BASE, [text], out=sharded / ".." / "source", overwrite=True)


@pytest.mark.parametrize("what", ["model", "GGUF file", "text", "recipe"])
def test_no_input_is_deleted_by_overwriting(what, llama_folder, text_file, tmp_path):
    out = tmp_path / "out"
    (out / "inner").mkdir(parents=True)
    (out / "config.json").touch()
    inputs = {"model": llama_folder, "recipe": BASE, "text": text_file, "gguf": None}
    for name in ("model.gguf", "text.txt", "recipe.yaml"):
        (out / "inner" / name).write_text("sparsity: 0.5")
    inputs |= {
        "model": {"model": out / "inner"},
        "GGUF file": {"gguf": out / "inner" / "model.gguf"},
        "text": {"text": out / "inner" / "text.txt"},
        "recipe": {"recipe": out / "inner" / "recipe.yaml"},
    }[what]
    with pytest.raises(TrimPruneError, match=f"the output folder holds the {what}"):
        prune(**inputs, out=out / "inner" / "..", overwrite=True)
    assert len(list((out / "inner").iterdir())) == 3


def test_a_gguf_file_beside_a_configuration_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "model.gguf").touch()
    with pytest.raises(TrimPruneError, match="the output folder holds the model"):
        prune(tmp_path / "model.gguf", {"sparsity": 0.5}, ["text"], out=tmp_path, overwrite=True)


def test_a_file_in_the_place_of_the_folder_is_refused(llama_folder, text, tmp_path):
    (tmp_path / "out").write_text("file")
    with pytest.raises(TrimPruneError, match="the output is not a folder"):
        prune(llama_folder, BASE, [text], out=tmp_path / "out")


def test_a_place_without_the_right_to_write_is_refused_before_any_work(llama_folder, text, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(TrimPruneError, match=r"cannot be written(.|\n)*" + tmp_path.name):
        prune(llama_folder, BASE, [text], out=tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_made_is_refused_in_words(llama_folder, text):
    with pytest.raises(TrimPruneError, match=r"the output cannot be written(.|\n)*/proc/none/out"):
        prune(llama_folder, BASE, [text], out="/proc/none/out")


def test_files_are_open_to_whom_the_umask_allows(sharded, text, tmp_path):
    before = os.umask(0o027)
    try:
        prune(sharded, BASE, [text], out=tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}
