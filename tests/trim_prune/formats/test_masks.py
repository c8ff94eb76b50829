"""Masks go from one form to another, onto models and against each other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import make_architecture
from safetensors.torch import load_file, save_file
from tiny_models import linears_of, make_model, save_model

from trim_kernels import pack_bits, unpack_bits
from trim_prune import TrimPruneError, prune
from trim_prune.formats.apply import apply_masks
from trim_prune.formats.foreign import open_script_masks
from trim_prune.formats.masks import export_masks, intersect, masks_of, open_mask_file, overlap
from trim_prune.formats.sources import open_masks
from trim_prune.report.overlap import overlap as overlap_of_runs


def name(linear, block=0):
    return f"model.layers.{block}.{linear}.weight"


@pytest.fixture
def pruned(llama_folder, tmp_path):
    prune(llama_folder, {"sparsity": 0.6, "score": "magnitude", "rows": "uniform"}, out=tmp_path / "pruned")
    return tmp_path / "pruned"


def random_masks(seed=0, shapes=((5, 17), (3, 8))):
    generator = torch.Generator().manual_seed(seed)
    return {f"a.{i}.weight": torch.rand(shape, generator=generator) < 0.4 for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_gives_back_what_was_exported(suffix, tmp_path):
    kept = random_masks()
    export_masks(masks_of(kept, "here"), tmp_path / f"masks{suffix}")
    found = open_masks(tmp_path / f"masks{suffix}")
    assert dict(found.shapes) == {"a.0.weight": (5, 17), "a.1.weight": (3, 8)}
    for name_, mask in kept.items():
        assert torch.equal(found.kept(name_), mask)
        assert torch.equal(found[name_], pack_bits(mask))
    assert [path.name for path in tmp_path.iterdir()] == [f"masks{suffix}"]


def experts_and_transposed():
    kept = random_masks(1, ((3, 5, 17), (4, 9)))
    return kept, replace(masks_of(kept, "here"), transposed=frozenset({"a.1.weight"}))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_masks_of_experts_and_of_transposed_weights_are_files_too(suffix, tmp_path):
    kept, masks = experts_and_transposed()
    export_masks(masks, tmp_path / f"masks{suffix}")
    found = open_masks(tmp_path / f"masks{suffix}")
    assert dict(found.shapes) == {"a.0.weight": (3, 5, 17), "a.1.weight": (4, 9)}
    assert found.transposed == {"a.1.weight"}
    assert all(torch.equal(found.kept(name_), mask) for name_, mask in kept.items())
    assert found.weights == 3 * 5 * 17 + 4 * 9
    assert overlap(found, masks, "a.0.weight").both == int((~kept["a.0.weight"]).sum())
    both = intersect([found, masks_of({"a.1.weight": torch.ones(4, 9).bool()}, "all")])
    assert (dict(both.shapes), both.transposed) == ({"a.1.weight": (4, 9)}, {"a.1.weight"})
    assert torch.equal(both.kept("a.1.weight"), kept["a.1.weight"])


def test_masks_of_a_model_with_transposed_weights_are_applied(tokenizer, tmp_path):
    source = save_model(tmp_path / "source", make_architecture("gpt2"), tokenizer)
    prune(source, {"sparsity": 0.6, "score": "magnitude", "rows": "uniform"}, out=tmp_path / "pruned")
    masks = open_masks(tmp_path / "pruned")
    apply_masks(source, masks, tmp_path / "applied")
    for file in ("model.safetensors", "masks.safetensors"):
        assert (tmp_path / "applied" / file).read_bytes() == (tmp_path / "pruned" / file).read_bytes()
    (tmp_path / "pruned" / "masks.safetensors").unlink()
    zeros, masks = open_masks(tmp_path / "pruned"), open_masks(tmp_path / "applied")
    assert zeros.transposed == masks.transposed == set(masks)
    assert all(torch.equal(zeros[name_], masks[name_]) for name_ in masks)


def test_numpy_reads_its_form_without_us(tmp_path):
    kept = random_masks()
    export_masks(masks_of(kept, "here"), tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as file:
        rows, columns = file["a.0.weight.shape"]
        mask = np.unpackbits(file["a.0.weight"], axis=1, count=columns)
    assert (rows, columns) == (5, 17)
    assert np.array_equal(mask, kept["a.0.weight"].numpy())


@pytest.mark.parametrize("is_opt", [False, True])
def test_what_trims_script_saves_is_read(is_opt, tmp_path):
    pruned = torch.rand(5, 13) < 0.7  # of the flat matrix, so that a byte holds the end of one row and the next one's
    saved = {
        "metadata": {
            "is_opt": is_opt,
            "layer_info": {"0": {}, "1": {"fc1": {"shape": [5, 13], "mask_key": "layer1_fc1", "is_packed": True}}},
        },
        "masks": {"layer1_fc1": torch.from_numpy(np.packbits(pruned.numpy()))},
    }
    torch.save(saved, tmp_path / "masks.pkl")
    found = open_masks(tmp_path / "masks.pkl")
    weight = f"model.{'decoder.' if is_opt else ''}layers.1.fc1.weight"
    assert list(found) == [weight]
    assert torch.equal(found.kept(weight), ~pruned)


def test_masks_with_too_few_bytes_are_refused(tmp_path):
    export_masks(masks_of(random_masks(), "here"), tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "short.npz", **(arrays | {"a.0.weight": arrays["a.0.weight"][:, :-1]}))
    np.savez(tmp_path / "wide.npz", **(arrays | {"a.0.weight": arrays["a.0.weight"].astype(np.int64)}))
    layers = {"0": {"fc1": {"shape": [5, 13], "mask_key": "key"}}}
    script = {"metadata": {"is_opt": False, "layer_info": layers}, "masks": {"key": torch.zeros(8, dtype=torch.uint8)}}
    torch.save(script, tmp_path / "short.pkl")
    for file in ("short.npz", "wide.npz", "short.pkl"):
        with pytest.raises(TrimPruneError, match="a mask has not the bytes of its shape"):
            list(open_masks(tmp_path / file).values())
        with pytest.raises(TrimPruneError, match="a mask has not the bytes of its shape"):
            export_masks(open_masks(tmp_path / file), tmp_path / "out.npz")
        assert not (tmp_path / "out.npz").exists()


def test_a_damaged_member_of_an_archive_is_told(tmp_path):
    export_masks(masks_of(random_masks(), "here"), tmp_path / "masks.npz")
    content = bytearray((tmp_path / "masks.npz").read_bytes())
    with np.load(tmp_path / "masks.npz") as file:
        at = content.index(file["a.0.weight"].tobytes())
    content[at] ^= 255
    (tmp_path / "masks.npz").write_bytes(content)
    with pytest.raises(TrimPruneError, match=r"no masks can be read(.|\n)*CRC"):
        list(open_masks(tmp_path / "masks.npz").values())


def test_what_is_no_mask_is_refused(tmp_path):
    np.savez(tmp_path / "empty.npz")
    torch.save({"metadata": {"is_opt": False, "layer_info": {}}, "masks": {}}, tmp_path / "empty.pkl")
    lost = {"is_opt": False, "layer_info": {"0": {"fc1": {"shape": [5, 13], "mask_key": "key"}}}}
    torch.save({"metadata": lost, "masks": {}}, tmp_path / "lost.pkl")
    for file in ("empty.npz", "empty.pkl", "lost.pkl"):
        with pytest.raises(TrimPruneError, match="no masks can be read"):
            open_masks(tmp_path / file)
    with pytest.raises(TrimPruneError, match="a mask is not a matrix of bools"):
        masks_of({"a": torch.ones(2, 3)}, "here")


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "text.txt").write_text("no folder")
    with pytest.raises(TrimPruneError, match="the output cannot be written"):
        export_masks(masks_of(random_masks(), "here"), tmp_path / "text.txt" / "masks.npz")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code of a pickle was run",))


@pytest.mark.parametrize("content", [Harmful(), {"metadata": {}}, [1]])
def test_another_pickle_is_refused_and_not_run(content, tmp_path):
    torch.save(content, tmp_path / "masks.pkl")
    with pytest.raises(TrimPruneError, match="no masks can be read from this file"):
        open_script_masks(tmp_path / "masks.pkl")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for file, message in {
        "text.npz": "no masks can be read",
        "other.npz": "no masks can be read",
        "other.safetensors": "not a file of the format trim-prune-masks",
        "text.safetensors": "not a readable safetensors file",
        "absent.npz": "no such file",
    }.items():
        with pytest.raises(TrimPruneError, match=message):
            open_masks(tmp_path / file)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"version": "3"}, "has a version that this trim_prune does not read"),
        ({"bit_order": "big"}, "not what their metadata says"),
        ({"shapes": {}}, "not what their metadata says"),
        ({"shapes": {"a": [2, 17]}}, "a mask has not the shape that its file gives it"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(about, message, tmp_path):
    said = {"format": "trim-prune-masks", "version": "1", "bit_order": "little", "shapes": {"a": [2, 9]}} | about
    path = tmp_path / "masks.safetensors"
    save_file({"a": torch.zeros(2, 2, dtype=torch.uint8)}, path, {"trim-prune-masks": json.dumps(said)})
    with pytest.raises(TrimPruneError, match=message):
        dict(open_mask_file(path))


def test_a_file_is_not_replaced_unasked(tmp_path):
    (tmp_path / "masks.npz").write_text("mine")
    with pytest.raises(TrimPruneError, match="the output file exists"):
        export_masks(masks_of(random_masks(), "here"), tmp_path / "masks.npz")
    assert (tmp_path / "masks.npz").read_text() == "mine"
    with pytest.raises(TrimPruneError, match="masks are written to a file"):
        export_masks(masks_of(random_masks(), "here"), tmp_path / "masks.bin")


def test_a_folder_is_judged_by_its_masks_and_else_by_its_zeros(pruned, llama_folder):
    by_file = dict(open_masks(pruned))
    (pruned / "masks.safetensors").unlink()
    by_zeros = open_masks(pruned)
    assert set(by_file) == set(by_zeros) == {f"{name_}.weight" for name_ in linears_of(make_model("llama"), "llama")}
    for name_ in by_file:
        assert torch.equal(by_file[name_], by_zeros[name_])
    assert all(bool(open_masks(llama_folder).kept(name_).all()) for name_ in by_file)


def test_masks_of_a_base_model_checkpoint_have_the_names_of_the_causal_model(tokenizer, tmp_path):
    model = make_model("llama", tie_word_embeddings=True)
    model.model.layers[0].mlp.up_proj.weight.data[0] = 0
    save_model(tmp_path / "model", model, tokenizer)
    tensors = {key.removeprefix("model."): t for key, t in load_file(tmp_path / "model/model.safetensors").items()}
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    found = open_masks(tmp_path / "model")
    assert not found.kept(name("mlp.up_proj"))[0].any()
    assert found.kept(name("mlp.up_proj"))[1:].all()


def test_masks_applied_to_the_dense_model_give_the_pruned_one(pruned, llama_folder, tmp_path):
    count = apply_masks(llama_folder, open_masks(pruned), tmp_path / "out")
    dense, got = load_file(llama_folder / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    expected = load_file(pruned / "model.safetensors")
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key].view(torch.int32), expected[key].view(torch.int32)) for key in got)
    assert count == sum(int((got[key] != dense[key]).sum()) for key in got)
    assert (tmp_path / "out/masks.safetensors").read_bytes() == (pruned / "masks.safetensors").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (llama_folder / "tokenizer.json").read_bytes()


def test_masks_of_another_model_are_refused_and_nothing_is_written(llama_folder, tmp_path):
    for kept, message in (
        ({"model.layers.0.mlp.up.weight": torch.ones(2, 9).bool()}, "name weights that the model folder has not"),
        ({name("mlp.up_proj"): torch.ones(2, 9).bool()}, "a mask does not fit its weight"),
    ):
        with pytest.raises(TrimPruneError, match=message):
            apply_masks(llama_folder, masks_of(kept, "here"), tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


def test_overlap_and_intersection_are_those_of_sets():
    first, second = random_masks(0), random_masks(1)
    a, b = masks_of(first, "a"), masks_of(second, "b")
    both = intersect([a, b])
    for name_ in first:
        x, y = first[name_], second[name_]
        found = overlap(a, b, name_)
        pruned = int((~x).sum()), int((~y).sum()), int((~x & ~y).sum())
        assert (found.weights, found.first, found.second, found.both) == (x.numel(), *pruned)
        assert found.share == pytest.approx(float((~x & ~y).sum() / (~x | ~y).sum()))
        assert found.share == overlap_of_runs(x, y)
        assert torch.equal(unpack_bits(both[name_], x.shape[1]), x & y)
    everything = masks_of({"a.0.weight": torch.ones(5, 17).bool()}, "everything")
    assert overlap(everything, everything, "a.0.weight").share is None


def test_masks_of_different_models_are_not_compared():
    a, b = masks_of(random_masks(), "a"), masks_of(random_masks(shapes=((5, 9),)), "b")
    with pytest.raises(TrimPruneError, match=r"differ in shape(.|\n)*a and b"):
        overlap(a, b, "a.0.weight")
    with pytest.raises(TrimPruneError, match="no weight in common"):
        intersect([a, masks_of({"c": torch.ones(1, 1).bool()}, "c")])


def test_the_commands(pruned, llama_folder, tmp_path, invoke):
    code, out, _ = invoke("masks", "export", pruned, "--out", tmp_path / "masks.npz")
    assert (code, "14 masks written to" in out) == (0, True)
    code, out, _ = invoke("masks", "apply", llama_folder, "--masks", tmp_path / "masks.npz", "--out", tmp_path / "out")
    assert (code, out.startswith("pruned ")) == (0, True)
    code, out, _ = invoke("masks", "diff", tmp_path / "out", llama_folder)
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["all"] == ["0.6000", "0.0000", "0.0000", "0.0000"]
    assert len(lines) == 16
    code, out, _ = invoke("masks", "intersect", pruned, llama_folder, "--out", tmp_path / "both.safetensors")
    assert code == 0
    assert torch.equal(
        load_file(tmp_path / "both.safetensors")[name("mlp.up_proj")], open_masks(pruned)[name("mlp.up_proj")]
    )
    assert invoke("masks", "intersect", pruned, "--out", tmp_path / "one.npz")[0] == 2
    code, _, err = invoke("masks", "export", tmp_path / "nowhere", "--out", tmp_path / "x.npz")
    assert (code, "no such file or folder of masks" in err) == (2, True)
