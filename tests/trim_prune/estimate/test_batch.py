"""As many sequences at once as memory allows, the same ones when a run goes on."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, prune
from trim_prune.estimate import batch
from trim_prune.estimate.batch import batch_size, largest
from trim_prune.estimate.memory import peak
from trim_prune.estimate.subject import Subject
from trim_prune.models.discover import find_blocks
from trim_prune.recipes import build_recipe
from trim_prune.runs.journal import unfinished
from trim_prune.states import States

CPU = torch.device("cpu")
BASE = {"sparsity": 0.5, "samples": 7, "seqlen": 16}


def subject_of(sequences=64, tokens=16, **recipe):
    model = make_model("llama")
    made = build_recipe(BASE | recipe)
    return Subject(model, find_blocks(model), made, CPU, True, True, sequences, tokens)


def test_a_number_is_taken_as_it_is_up_to_a_group():
    assert batch_size(subject_of(batch_size=5))[0] == 5
    assert batch_size(subject_of(batch_size=50))[0] == 8


def test_all_sequences_of_a_group_go_at_once_where_there_is_room_for_them(monkeypatch):
    monkeypatch.setattr(batch, "free_on", lambda device: 1 << 40)
    assert batch_size(subject_of(sequences=64))[0] == 8
    assert batch_size(subject_of(sequences=8000, tokens=16))[0] == batch.MOST_TOKENS // 16
    assert batch_size(subject_of(sequences=3, tokens=2 * batch.MOST_TOKENS))[0] == 1


def test_the_highest_moment_takes_no_more_than_its_share_of_what_is_free(monkeypatch):
    subject = subject_of(sequences=128)
    need = peak(subject, 16, "memory", "host").total
    monkeypatch.setattr(batch, "free_on", lambda device: 2 * need)
    assert batch_size(subject) == (16, "memory")
    monkeypatch.setattr(batch, "free_on", lambda device: 2 * need - 2)
    assert batch_size(subject)[0] == 8
    monkeypatch.setattr(batch, "free_on", lambda device: 0)
    assert batch_size(subject)[0] == 1


@pytest.mark.parametrize("room", [0, 3, 4, 100])
def test_what_needs_more_than_the_room_is_halved(room):
    assert largest(8, 1, lambda size: size, room) == max(1, min(8, 1 << max(0, room.bit_length() - 1)))


@pytest.mark.parametrize("structured", [False, True])
def test_the_run_uses_it(structured, monkeypatch, tokenizer, text):
    sizes = []
    init = States.__init__

    def note(self, captured, *rest):
        sizes.extend(len(found.hidden) for found in captured)
        init(self, captured, *rest)

    monkeypatch.setattr(States, "__init__", note)
    monkeypatch.setattr(batch, "MOST_TOKENS", 48)
    recipe = {"params": 0.9, "repair": "affine", "samples": 7, "seqlen": 16} if structured else BASE
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    assert sizes == ([3, 3, 1] if structured else [3, 1, 3])
    assert structured or result.recipe.batch_size == 3


@pytest.mark.parametrize("recipe", [{}, {"solver": "sparsegpt", "rows": "uniform"}, {"rows": "optimal"}])
def test_the_size_found_changes_no_bit_of_a_small_model(recipe, monkeypatch, tokenizer, text):
    models = []
    for most in (16, 48, 1000):
        monkeypatch.setattr(batch, "MOST_TOKENS", most)
        models.append(make_model("llama"))
        prune(models[-1], BASE | recipe, [text], tokenizer=tokenizer)
    for model in models[1:]:
        assert all(torch.equal(tensor, models[0].state_dict()[name]) for name, tensor in model.state_dict().items())


class StoppedError(Exception):
    pass


def test_a_run_that_goes_on_takes_as_many_as_before(monkeypatch, tokenizer, text_file, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama"), tokenizer)

    def stop(event):
        if event.kind == "block":
            raise StoppedError

    monkeypatch.setattr(batch, "MOST_TOKENS", 48)
    with pytest.raises(StoppedError):
        prune(folder, BASE, text_file, out=tmp_path / "out", on_event=stop)
    journal = (unfinished(tmp_path / "out") / "journal.jsonl").read_text().splitlines()
    assert json.loads(journal[0])["batch_size"] == 3
    monkeypatch.setattr(batch, "MOST_TOKENS", 1000)
    assert prune(folder, BASE, text_file, out=tmp_path / "out").recipe.batch_size == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]["batch_size"] == 3


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "many"])
def test_other_sizes_are_refused(value):
    with pytest.raises(TrimPruneError, match="batch_size: Value error, Input should be auto, or a whole number"):
        build_recipe(BASE | {"batch_size": value})
