"""The next batch is on its way while one is worked on, and what arrives is what was sent."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch import Tensor

from trim_prune import prune, states
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.states import States
from trim_prune.transfers import Ahead, Lane, lane_of

CPU = torch.device("cpu")


class FarDevice(Lane):
    """A device to which tensors travel: they are copied when they arrive, and the order of things is noted."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.log: list[tuple[str, int]] = []
        self.stored: list[tuple[Tensor, Tensor]] = []

    def fetch(self, tensor):
        self.log.append(("fetch", id(tensor)))

        def arrive():
            self.log.append(("arrive", id(tensor)))
            return self._arrived(tensor).clone()

        return arrive

    def store(self, tensor):
        kept = torch.full_like(tensor, torch.nan)
        self.stored.append((kept, tensor))
        return kept

    def finish(self):
        for kept, tensor in self.stored:
            kept.copy_(tensor)
        self.stored.clear()

    def _arrived(self, tensor):
        return next((sent for kept, sent in self.stored if kept is tensor), tensor)


def test_the_next_tensor_is_fetched_before_one_is_worked_on():
    lane, tensors = FarDevice(), [torch.full((2,), float(index)) for index in range(4)]
    ahead = Ahead(lane)
    for index, tensor in enumerate(tensors):
        assert torch.equal(ahead.take(tensors, index), tensor)
        lane.log.append(("work", id(tensor)))
    first, second, third, fourth = map(id, tensors)
    assert lane.log == [
        ("fetch", first),
        ("arrive", first),
        ("fetch", second),
        ("work", first),
        ("arrive", second),
        ("fetch", third),
        ("work", second),
        ("arrive", third),
        ("fetch", fourth),
        ("work", third),
        ("arrive", fourth),
        ("work", fourth),
    ]


def test_what_was_fetched_is_dropped_if_the_list_has_changed_since():
    lane, tensors = FarDevice(), [torch.tensor([float(index)]) for index in range(3)]
    ahead = Ahead(lane)
    ahead.take(tensors, 0)
    tensors[1:] = [torch.tensor([7.0]), torch.tensor([8.0])]
    assert ahead.take(tensors, 1).item() == 7
    assert ahead.take(tensors, 0).item() == 0
    assert ahead.take(tensors, 2).item() == 8


@pytest.mark.parametrize("correction", [0.0, 0.5], ids=["one model", "two models"])
def test_a_prune_with_states_far_away_gives_the_same_bits(correction, tokenizer, text, monkeypatch):
    recipe = {"sparsity": 0.5, "samples": 5, "seqlen": 16, "batch_size": 2, "correction": correction}
    near, far = make_model("llama"), make_model("llama")
    prune(near, recipe, [text], tokenizer=tokenizer)
    lane = FarDevice()
    monkeypatch.setattr(states, "lane_of", lambda device: lane)
    monkeypatch.setattr("trim_prune.activations.lane_of", lambda device: lane)
    monkeypatch.setattr("trim_prune.engine.keeper", lambda *_: lane.store)
    prune(far, recipe, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, far.state_dict()[name]) for name, tensor in near.state_dict().items())
    assert any(kind == "fetch" for kind, _ in lane.log)


def test_outputs_that_nobody_wants_are_not_stored():
    model = make_model("llama")
    tokens, stored = random_tokens(4, 8), []
    blocks = find_blocks(model)
    capture = Capture(model, blocks, tokens)

    def keep(hidden):
        stored.append(hidden)
        return hidden

    walked = States([capture(batch) for batch in tokens.split(2)], CPU, keep)
    with torch.no_grad():
        walked.run(blocks[0], blocks[0].module, 0)
        assert stored == []
        walked.propagate(blocks[0])
    assert len(stored) == 2


def test_on_a_cpu_nothing_travels():
    tensor = torch.ones(3)
    lane = lane_of(CPU)
    assert type(lane) is Lane
    assert lane.fetch(tensor)() is tensor
    assert lane.store(tensor) is tensor
