"""A run that goes on where another one stopped gives the same bytes."""

from __future__ import annotations

import json

import pytest
import torch
from architectures import make_architecture
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, load_model, prune
from trim_prune.models.shards import Shards, weight_files
from trim_prune.runs.journal import unfinished
from trim_prune.states import PairedStates, States
from trim_prune.structured.results import Check

BASE = {"sparsity": 0.5, "samples": 4, "seqlen": 16, "batch_size": 3}
BLOCKS = 4
RECIPES = {
    "wanda": {},
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "sparsegpt": {"score": "obs", "rows": "uniform", "solver": "sparsegpt", "layers": "owl"},
    "correction": {"correction": 0.5, "recapture": True},
    "optimal": {"rows": "optimal", "layers": "optimal", "optimal": {"sequences": 2}},
    "permuted": {"pattern": "keep 2 of 4", "permute": True, "rows": "uniform"},
    "permuted, corrected": {"pattern": "keep 2 of 4", "permute": True, "rows": "uniform", "correction": 0.5},
}


class StoppedError(Exception):
    pass


def stop_at(kind, number):
    """A listener that stops a run at the event of that kind and number."""
    seen = []

    def listen(event):
        if event.kind == kind:
            seen.append(event)
            if len(seen) == number:
                raise StoppedError

    return listen


@pytest.fixture
def make_folder(tokenizer, tmp_path):
    def make(dtype):
        model = make_model("llama", num_hidden_layers=BLOCKS, dtype=dtype, head_dim=8)
        return save_model(tmp_path / "model", model, tokenizer, max_shard_size="30KB")

    return make


@pytest.fixture
def folder(make_folder):
    return make_folder(torch.float32)


@pytest.fixture
def whole(text, tmp_path):
    """An uninterrupted run."""

    def run(recipe):
        prune(tmp_path / "model", BASE | recipe, [text], out=tmp_path / "whole")
        return tmp_path / "whole"

    return run


@pytest.mark.parametrize("kept", [True, False], ids=["states kept", "replayed"])
@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [*((name, torch.float32) for name in RECIPES), ("sparsegpt", torch.float16), ("correction", torch.bfloat16)],
    ids=str,
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    recipe, dtype, kept, make_folder, whole, content, text, tmp_path, monkeypatch
):
    monkeypatch.setattr(States, "kept_on_disk", kept)
    if not kept and recipe != "permuted, corrected":
        monkeypatch.setattr(PairedStates, "kept_on_disk", False)
    folder, out, recipe = make_folder(dtype), tmp_path / "out", BASE | RECIPES[recipe]
    for block in (1, 3):
        with pytest.raises(StoppedError):
            prune(folder, recipe, [text], out=out, on_event=stop_at("block", block))
        assert not out.exists()
    events = []
    result = prune(folder, recipe, [text], out=out, on_event=events.append)
    assert [event.data["blocks_done"] for event in events if event.kind == "resumed"] == [BLOCKS]
    assert content(out) == content(whole(recipe))
    assert not unfinished(out).exists()
    theirs = json.loads((tmp_path / "whole" / "run.json").read_text())
    ours = json.loads((out / "run.json").read_text())
    for run in (ours, theirs):
        for linear in run["linears"]:
            del linear["seconds"]
    assert ours["linears"] == theirs["linears"]
    assert ours["sparsity"] == theirs["sparsity"]
    assert result.masks.keys() == {f"{linear.name}.weight" for linear in result.linears}


SMALLER = {"params": 0.85, "heads": "magnitude", "channels": "magnitude", "repair": "none", "layers": "uniform"}


def test_a_structured_prune_takes_nothing_of_an_unfinished_run_and_nothing_from_it(folder, text, tmp_path, monkeypatch):
    monkeypatch.setattr("trim_prune.structured.run.check_written", lambda *_: Check("", 0, 0.0))
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=stop_at("block", 2))
    with pytest.raises(TrimPruneError, match=r"an unfinished run for this output(.|\n)*--no-resume"):
        prune(folder, SMALLER, out=out)
    events = []
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=lambda event: (events.append(event), stop_at("block", 1)(event)))
    assert [event.data["blocks_done"] for event in events if event.kind == "resumed"] == [2]
    prune(folder, SMALLER, out=out, resume=False)
    assert (out / "structure.json").is_file()
    assert not (out / "masks.safetensors").exists()
    assert not unfinished(out).exists()


def test_what_a_killed_process_left_that_nothing_can_go_on_from_is_not_published(folder, text, tmp_path):
    out = tmp_path / "out"
    (unfinished(out) / "model").mkdir(parents=True)
    (unfinished(out) / "journal.jsonl").write_text("")
    (unfinished(out) / "model" / "structure.json").write_text("{}")
    prune(folder, BASE, [text], out=out)
    assert not (out / "structure.json").exists()
    assert load_model(out).model is not None


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "phi3", "llava"])
@pytest.mark.parametrize("recipe", ["sparsegpt", "permuted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_models_that_lie_otherwise_in_their_files_go_on_too(
    name, recipe, dtype, whole, content, tokenizer, text, tmp_path
):
    folder = save_model(tmp_path / "model", make_architecture(name).to(dtype), tokenizer)
    out, recipe = tmp_path / "out", BASE | RECIPES[recipe]
    if recipe.get("permute") and name in ("gpt2", "phi3"):
        del recipe["permute"]
    with pytest.raises(StoppedError):
        prune(folder, recipe, [text], out=out, on_event=stop_at("block", 1))
    events = []
    prune(folder, recipe, [text], out=out, on_event=events.append)
    assert [event.data["blocks_done"] for event in events if event.kind == "resumed"] == [1]
    assert content(out) == content(whole(recipe))


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_such_a_model_from_memory_goes_on_too(name, content, tokenizer, text, tmp_path):
    out, recipe = tmp_path / "out", BASE | RECIPES["sparsegpt"]
    with pytest.raises(StoppedError):
        prune(make_architecture(name), recipe, [text], tokenizer=tokenizer, out=out, on_event=stop_at("block", 1))
    models = [make_architecture(name) for _ in range(2)]
    prune(models[0], recipe, [text], tokenizer=tokenizer, out=out)
    prune(models[1], recipe, [text], tokenizer=tokenizer, out=tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    ours, theirs = (model.state_dict() for model in models)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("recipe", ["wanda", "correction", "permuted"])
def test_a_model_from_memory_goes_on_too(recipe, content, tokenizer, text, tmp_path):
    out, recipe = tmp_path / "out", BASE | RECIPES[recipe]

    def make():
        return make_model("llama", num_hidden_layers=BLOCKS, head_dim=8)

    with pytest.raises(StoppedError):
        prune(make(), recipe, [text], tokenizer=tokenizer, out=out, on_event=stop_at("block", 3))
    ours, theirs = make(), make()
    result = prune(ours, recipe, [text], tokenizer=tokenizer, out=out)
    prune(theirs, recipe, [text], tokenizer=tokenizer, out=tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert result.model is ours
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_took_long_before_the_first_block_is_not_done_again(folder, whole, content, text, tmp_path, monkeypatch):
    out, recipe, events = tmp_path / "out", BASE | RECIPES["optimal"], []

    def stop(*args):
        raise StoppedError

    with pytest.raises(StoppedError):
        prune(folder, recipe, [text], out=out, on_event=stop_at("errors", 1))
    with monkeypatch.context() as patch:
        patch.setattr("trim_prune.engine.prune_linears", stop)
        with pytest.raises(StoppedError):
            prune(folder, recipe, [text], out=out, on_event=events.append)
    assert [event.kind for event in events if event.kind in ("gradients", "errors")] == ["errors"] * BLOCKS
    events.clear()
    prune(folder, recipe, [text], out=out, on_event=events.append)
    assert not [event for event in events if event.kind in ("gradients", "errors")]
    assert content(out) == content(whole(recipe))


def test_the_model_in_the_result_is_what_was_written(folder, text, tmp_path):
    result = prune(folder, BASE, [text], out=tmp_path / "out")
    written = load_model(tmp_path / "out").model
    assert all(torch.equal(tensor, written.state_dict()[name]) for name, tensor in result.model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sparsity": 0.6}, r"recipe\.sparsity(.|\n)*0\.5(.|\n)*0\.6"),
        ({"seed": 1, "damping": None}, r"recipe\.seed(.|\n)*calibration\.sample_ids"),
        ({"score": "ria"}, r"recipe\.score(.|\n)*wanda(.|\n)*ria"),
    ],
)
def test_another_recipe_is_refused_and_its_field_named(change, field, folder, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=stop_at("block", 1))
    with pytest.raises(TrimPruneError, match=rf"differs in {field}(.|\n)*--no-resume"):
        prune(folder, BASE | change, [text], out=out)
    events = []
    prune(folder, BASE, [text], out=out, on_event=events.append)
    assert any(event.kind == "resumed" for event in events)


def touch(folder, text):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes())
    return [text]


@pytest.mark.parametrize(
    ("change", "field"),
    [(touch, r"model\.model-00002"), (lambda folder, text: [text[::-1]], r"calibration\.tokens")],
    ids=["model", "text"],
)
def test_other_files_are_refused_and_named(change, field, folder, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=stop_at("block", 1))
    other = change(folder, text)
    with pytest.raises(TrimPruneError, match=f"differs in {field}"):
        prune(folder, BASE, other, out=out)


def test_begin_anew_forgets_what_was_done(folder, whole, content, text, tmp_path):
    out, events = tmp_path / "out", []
    with pytest.raises(StoppedError):
        prune(folder, BASE | {"seed": 3}, [text], out=out, on_event=stop_at("block", 2))
    prune(folder, BASE, [text], out=out, resume=False, on_event=events.append)
    assert not [event for event in events if event.kind == "resumed"]
    assert content(out) == content(whole({}))


def test_an_interrupted_run_says_how_to_go_on(folder, text, tmp_path):
    out, events = tmp_path / "out", []

    def interrupt(event):
        events.append(event)
        if event.kind == "block" and event.data["block"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(folder, BASE, [text], out=out, on_event=interrupt)
    assert events[-1].kind == "warning"
    assert f"2 of {BLOCKS} blocks are done and kept in {unfinished(out)}" in events[-1].data["message"]
    assert "the same command goes on from there" in events[-1].data["message"]


def test_a_run_that_stops_before_anything_is_done_leaves_nothing(folder, text, tmp_path, leftovers):
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=tmp_path / "out", on_event=stop_at("calibration", 1))
    assert leftovers(tmp_path, "model") == []


def damage(kind, run):
    shards = Shards(run / "model", weight_files(run / "model"))
    key = next(name for name in shards.places if "layers.1.mlp.up_proj" in name)
    place = shards.places[key]
    file = run / "model" / place.file
    if kind == "a bit":
        content = bytearray(file.read_bytes())
        content[place.begin + 3] ^= 1
        file.write_bytes(content)
    elif kind == "a truncated shard":
        file.write_bytes(file.read_bytes()[: place.end - 10])
    elif kind == "a missing shard":
        file.unlink()
    elif kind == "the masks":
        (run / "model" / "masks.safetensors").write_bytes(b"")
    elif kind == "the embedding":
        file = next(path for path in sorted((run / "model").glob("model-*")) if b"embed_tokens" in path.read_bytes())
        file.write_bytes(file.read_bytes()[:-50] + bytes(50))
    elif kind == "the states":
        (run / "states-3.safetensors").write_bytes(b"nothing")
    elif kind == "a line":
        journal = run / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("a bit", 1),
        ("a truncated shard", 1),
        ("a missing shard", 1),
        ("the masks", None),
        ("the embedding", 3),
        ("the states", 3),
        ("a line", 2),
    ],
)
def test_what_was_damaged_is_done_again(kind, left, folder, whole, content, text, tmp_path):
    out, events = tmp_path / "out", []
    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=stop_at("block", 3))
    damage(kind, unfinished(out))
    prune(folder, BASE, [text], out=out, on_event=events.append)
    assert [event.data["blocks_done"] for event in events if event.kind == "resumed"] == ([left] if left else [])
    assert content(out) == content(whole({}))


def test_two_runs_do_not_write_one_output(folder, text, tmp_path):
    out = tmp_path / "out"

    def begin_another(event):
        if event.kind == "block":
            with pytest.raises(TrimPruneError, match="another run writes this output"):
                prune(folder, BASE, [text], out=out)
            raise StoppedError

    with pytest.raises(StoppedError):
        prune(folder, BASE, [text], out=out, on_event=begin_another)
    assert prune(folder, BASE, [text], out=out).out == out


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize("recipe", ["wanda", "correction", "permuted"])
def test_the_blocks_before_one_are_taken_from_an_earlier_run(recipe, finished, folder, whole, content, text, tmp_path):
    recipe, old = BASE | RECIPES[recipe], tmp_path / "old"
    if finished:
        prune(folder, recipe, [text], out=old)
    else:
        with pytest.raises(StoppedError):
            prune(folder, recipe, [text], out=old, on_event=stop_at("block", 3))
    changed = recipe | ({"pattern": "keep 1 of 4", "sparsity": 0.75} if "pattern" in recipe else {"sparsity": 0.7})
    events = []
    result = prune(folder, recipe, [text], out=tmp_path / "same", from_run=old, from_block=2, on_event=events.append)
    assert [event.data["block"] for event in events if event.kind == "block"] == [2, 3]
    assert content(tmp_path / "same") == content(whole(recipe))
    assert len(result.linears) == 7 * BLOCKS
    other = prune(folder, changed, [text], out=tmp_path / "other", from_run=old, from_block=2)
    shares = [round(linear.sparsity, 1) for linear in other.linears]
    wanted = 0.8 if "pattern" in recipe else 0.7
    assert shares == [0.5] * 14 + [wanted] * 14
    assert json.loads((tmp_path / "other" / "run.json").read_text())["sparsity"]["pruned"] == other.sparsity.pruned


def test_a_run_from_a_block_goes_on_too(folder, content, text, tmp_path):
    prune(folder, BASE, [text], out=tmp_path / "old")
    options = {"from_run": tmp_path / "old", "from_block": 1}
    changed = BASE | {"sparsity": 0.7}
    prune(folder, changed, [text], out=tmp_path / "whole", **options)
    with pytest.raises(StoppedError):
        prune(folder, changed, [text], out=tmp_path / "out", on_event=stop_at("block", 2), **options)
    with pytest.raises(TrimPruneError, match=r"differs in earlier\.(block|results)"):
        prune(folder, changed, [text], out=tmp_path / "out", from_run=tmp_path / "old", from_block=2)
    prune(folder, changed, [text], out=tmp_path / "out", **options)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from_block": 1}, r"takes that run, the block and a new output(.|\n)*from_block: 1"),
        ({"from_run": "nowhere"}, "takes that run, the block and a new output"),
        ({"from_run": "nowhere", "from_block": 1}, r"no earlier run to go on from(.|\n)*nowhere(.|\n)*run\.json"),
        ({"from_run": "old", "from_block": 0}, r"does not have the blocks before(.|\n)*1 to 4(.|\n)*0"),
        ({"from_run": "old", "from_block": 5}, r"does not have the blocks before(.|\n)*1 to 4(.|\n)*5"),
        ({"from_run": "other", "from_block": 1}, r"the earlier run is of another model(.|\n)*layers\.0"),
    ],
)
def test_an_earlier_run_that_does_not_serve_is_refused(options, message, folder, tokenizer, text, tmp_path):
    prune(folder, BASE, [text], out=tmp_path / "old")
    other = make_model("llama", num_hidden_layers=BLOCKS, intermediate_size=40)
    prune(other, BASE, [text], tokenizer=tokenizer, out=tmp_path / "other")
    if "from_run" in options:
        options = options | {"from_run": tmp_path / options["from_run"]}
    with pytest.raises(TrimPruneError, match=message):
        prune(folder, BASE, [text], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
