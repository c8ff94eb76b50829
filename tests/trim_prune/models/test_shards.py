from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from trim_prune import TrimPruneError
from trim_prune.models import shards
from trim_prune.models.shards import Shards, allocate, make_file

TENSORS = {
    "one": {
        "wide": torch.arange(12, dtype=torch.float32).view(3, 4),
        "half": torch.randn(5, 3).bfloat16(),
        "number": torch.tensor(7),
    },
    "two": {"empty": torch.zeros(0, 4), "bytes": torch.arange(7, dtype=torch.uint8), "double": torch.randn(2).double()},
}


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name, tensors in TENSORS.items():
        save_file(tensors, source / f"{name}.safetensors", {"format": "pt", "about": name})
    return source


@pytest.fixture
def files(folder):
    return Shards(folder, ["one.safetensors", "two.safetensors"])


def test_tensors_are_read_by_name(files):
    everything = TENSORS["one"] | TENSORS["two"]
    found = dict(files.read(everything))
    assert found.keys() == everything.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in everything.items())
    assert torch.equal(files.get("half"), everything["half"])
    assert [files.places[name].dtype for name in ("wide", "half", "number")] == [torch.float32, torch.bfloat16, None]
    assert files.places["wide"].shape == (3, 4)


def test_what_is_read_is_not_the_file(files, folder):
    files.get("wide").zero_()
    assert torch.equal(load_file(folder / "one.safetensors")["wide"], TENSORS["one"]["wide"])


@pytest.mark.parametrize("piece", [3, 16 << 20])
def test_an_outline_holds_everything_but_what_is_left_out(piece, files, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", piece)
    target = tmp_path / "target"
    target.mkdir()
    outline = files.outline(target, {"wide", "double"})
    assert outline.places == files.places
    for name in ("wide", "double"):
        assert not outline.get(name).any()
        outline.write(name, files.get(name))
    outline.sync(["wide", "double"])
    for name in TENSORS:
        assert (target / f"{name}.safetensors").read_bytes() == (folder / f"{name}.safetensors").read_bytes()


def test_a_tensor_of_another_size_is_not_written(files):
    with pytest.raises(ValueError, match="wide has 44 bytes in place of 48"):
        files.write("wide", torch.zeros(11))


def test_made_files_are_those_of_the_library(tmp_path):
    shapes = {"a": (3, 2), "b": (0, 5), "c": (70, 1)}
    make_file(tmp_path / "made", shapes, {"key": "ä"})
    found = load_file(tmp_path / "made")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert not any(tensor.any() for tensor in found.values())
    Shards(tmp_path, ["made"]).write("c", torch.full((70, 1), 9, dtype=torch.uint8))
    make_file(tmp_path / "made", shapes, {"key": "ä"})
    assert torch.equal(load_file(tmp_path / "made")["c"], torch.full((70, 1), 9, dtype=torch.uint8))


def test_a_file_gets_the_size_that_it_is_to_have_and_keeps_what_is_in_it(tmp_path):
    file = tmp_path / "file"
    for size in (10, 4, 20, 0):
        allocate(file, size)
        assert file.stat().st_size == size
        file.write_bytes(file.read_bytes().replace(b"\0", b"x"))
    file.write_bytes(b"abcdef")
    allocate(file, 8)
    assert file.read_bytes() == b"abcdef\0\0"


def test_a_file_that_was_cut_short_is_named(files, folder):
    file = folder / "one.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TrimPruneError, match=r"the weights cannot be read(.|\n)*one\.safetensors"):
        files.get("wide")


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((torch.float16, torch.float16), torch.float16),
        ((torch.float16, torch.float32), None),
        ((torch.int64,) * 2, None),
    ],
)
def test_the_only_type_of_the_weights(types, expected, tmp_path):
    save_file({str(n): torch.zeros(2, dtype=dtype) for n, dtype in enumerate(types)}, tmp_path / "file")
    assert Shards(tmp_path, ["file"]).only_dtype == expected


def test_names_are_found_with_and_without_the_prefix(files):
    assert files.find(["wide", "model.half"], "model") == {"wide": "wide", "model.half": "half"}
    assert files.find(["wide", "missing"], "model") is None
    assert files.find(["w.x"], "w", {"half": "x"}) == {"w.x": "half"}
