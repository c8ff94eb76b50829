"""Weight files of at most the size that was asked for, with the same tensors, byte for byte."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import make_model, save_model
from transformers import AutoModelForCausalLM

from trim_prune import TrimPruneError, prune
from trim_prune.models.sharding import parse_size, reshard
from trim_prune.models.shards import Shards, weight_files

BASE = {"sparsity": 0.5, "samples": 4, "seqlen": 16}


def tensors_of(folder):
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(folder / file).items()}


def bytes_of(folder, file):
    return sum(tensor.numel() * tensor.element_size() for tensor in load_file(folder / file).values())


@pytest.mark.parametrize(
    ("words", "size"),
    [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2gib", 2 << 30), ("100", 100), (7, 7), (None, None), ("1TB", 10**12)],
)
def test_sizes_in_words(words, size):
    assert parse_size(words) == size


@pytest.mark.parametrize("words", ["", "GB", "5 gigabytes", "-1GB", 0, "0.1", "5PB"])
def test_what_is_no_size_is_refused(words, llama_folder, tmp_path):
    with pytest.raises(TrimPruneError, match="is no size"):
        parse_size(words)
    with pytest.raises(TrimPruneError, match="is no size"):
        prune(llama_folder, BASE, out=tmp_path / "out", max_shard_size=words)


def test_a_size_of_files_that_are_not_written_is_refused(llama_folder):
    with pytest.raises(TrimPruneError, match="nothing is written"):
        prune(llama_folder, BASE, max_shard_size="5GB")


@pytest.fixture(scope="module")
def source(tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), make_model("llama"), tokenizer, max_shard_size="50KB")


@given(size=st.integers(1, 200_000))
def test_files_hold_all_tensors_in_order_and_none_is_larger_unless_it_holds_one_tensor(size, source, tmp_path_factory):
    folder, shards = tmp_path_factory.mktemp("out"), Shards(source, weight_files(source))
    made = reshard(shards, folder, {"model.norm.weight"}, size)
    expected = tensors_of(source)
    expected["model.norm.weight"] = torch.zeros_like(expected["model.norm.weight"])
    found = tensors_of(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    for file in made.files:
        assert bytes_of(folder, file) <= size or len(load_file(folder / file)) == 1
    if len(made.files) > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {name: place.file for name, place in made.places.items()}
        assert index["metadata"]["total_size"] == sum(bytes_of(folder, file) for file in made.files)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("folder", "20KB"), ("folder", 10**9), ("object", "20KB"), ("ragged", "20KB"), ("masked", "20KB")],
)
def test_a_pruned_model_has_the_files_that_were_asked_for(kind, size, source, tokenizer, text, tmp_path):
    structured = {"params": 0.9, "mode": kind, "repair": "affine", "samples": 4, "seqlen": 16}
    recipe = BASE if kind in ("folder", "object") else structured
    given = AutoModelForCausalLM.from_pretrained(source) if kind == "object" else source
    out = tmp_path / "out"
    prune(given, recipe, [text], tokenizer=tokenizer, out=out, max_shard_size=size)
    files = weight_files(out)
    assert (len(files) > 1) == (size == "20KB")
    assert all(bytes_of(out, file) <= parse_size(size) or len(load_file(out / file)) == 1 for file in files)
    if kind == "folder":
        prune(source, recipe, [text], tokenizer=tokenizer, out=tmp_path / "as it was")
        expected = tensors_of(tmp_path / "as it was")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(out).items())
        loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


class StoppedError(Exception):
    pass


def test_a_run_goes_on_with_the_same_files_only(source, text_file, tmp_path):
    def stop(event):
        if event.kind == "block":
            raise StoppedError

    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        prune(source, BASE, text_file, out=out, max_shard_size="20KB", on_event=stop)
    with pytest.raises(TrimPruneError, match=r"differs in output\.max_shard_size"):
        prune(source, BASE, text_file, out=out)
    prune(source, BASE, text_file, out=out, max_shard_size=20_000)
    prune(source, BASE, text_file, out=tmp_path / "other", max_shard_size="20KB")
    assert weight_files(out) == weight_files(tmp_path / "other")
    assert all((out / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in weight_files(out))
