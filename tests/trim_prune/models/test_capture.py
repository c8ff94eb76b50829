from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from trim_prune import TrimPruneError
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks

CPU = torch.device("cpu")


def replay(model, batches):
    """Hidden states after each block, per batch, from captured calls alone."""
    blocks = find_blocks(model)
    capture, captured = Capture(model, blocks, batches[0]), None
    states = []
    for batch in batches:
        captured = capture(batch, captured)
        hidden, after = captured.hidden, []
        for block in blocks:
            hidden = captured.calls[block.index].run(block.module, hidden, CPU)
            after.append(hidden)
        states.append([captured.hidden, *after])
    return states


def inside(model, batch):
    """Hidden states before the first block and after each, seen by hooks in the model's own forward."""
    seen = []
    blocks = find_blocks(model)
    first = lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
    each = lambda _, args, output: seen.append(output if isinstance(output, torch.Tensor) else output[0])  # noqa: E731
    handles = [blocks[0].module.register_forward_pre_hook(first, with_kwargs=True)]
    handles += [block.module.register_forward_hook(each) for block in blocks]
    model(input_ids=batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def test_replay_equals_the_models_own_forward(family):
    model = make_model(family)
    batches = [random_tokens(3, 20, 1), random_tokens(1, 20, 2), random_tokens(2, 13, 3), random_tokens(1, 5, 4)]
    for batch, replayed in zip(batches, replay(model, batches), strict=True):
        for ours, theirs in zip(replayed, inside(model, batch), strict=True):
            assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_replay_is_right_whether_or_not_the_model_makes_a_mask(attention):
    model = make_model("llama", attn_implementation=attention)
    batches = [random_tokens(2, 9, 1), random_tokens(2, 12, 2)]
    for batch, replayed in zip(batches, replay(model, batches), strict=True):
        assert torch.equal(replayed[-1], inside(model, batch)[-1])


@torch.no_grad()
def test_equal_arguments_of_two_batches_share_their_memory():
    model = make_model("llama")
    blocks = find_blocks(model)
    capture = Capture(model, blocks, random_tokens(2, 8))
    first = capture(random_tokens(2, 8, 1))
    second = capture(random_tokens(2, 8, 2), first)
    tables = [call.kwargs["position_embeddings"][0] for call in (*first.calls, *second.calls)]
    assert len({id(table) for table in tables}) == 1


def test_logits_from_the_last_hidden_states_equal_the_models_own(family):
    model = make_model(family)
    batch = random_tokens(2, 11)
    with torch.no_grad():
        capture = Capture(model, find_blocks(model), batch)
        last = inside(model, batch)[-1]
        assert torch.equal(capture.logits(batch, last), model(input_ids=batch, use_cache=False).logits)
    assert all("forward" not in block.module.__dict__ for block in capture.blocks)


def test_gradients_flow_from_the_logits_to_the_hidden_states(family):
    model = make_model(family)
    batch = random_tokens(2, 11)
    with torch.no_grad():
        capture = Capture(model, find_blocks(model), batch)
    seen = []
    keep = lambda _, args, output: seen.append(output if isinstance(output, torch.Tensor) else output[0])  # noqa: E731
    handle = capture.blocks[-1].module.register_forward_hook(keep)
    logits = model(input_ids=batch, use_cache=False).logits
    handle.remove()
    slope = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(logits, seen[0], slope)
    hidden = seen[0].detach().requires_grad_()
    capture.logits(batch, hidden).backward(slope)
    torch.testing.assert_close(hidden.grad, wanted)


Pair = namedtuple("Pair", ["hidden", "extra"])


class Block(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.linear, self.form = nn.Linear(6, 6), form

    def forward(self, hidden_states, shift=None):
        return self.form(torch.tanh(self.linear(hidden_states)) + shift)


class Model(nn.Module):
    """A model in which only the form of what blocks take and return matters."""

    def __init__(self, form=lambda hidden: hidden, run=None):
        super().__init__()
        self.embedding = nn.Embedding(300, 6)
        self.layers = nn.ModuleList([Block(form) for _ in range(3)])
        self.config = SimpleNamespace()
        self.run = run or self.in_order

    def forward(self, input_ids, use_cache):
        return self.run(self, self.embedding(input_ids))

    @staticmethod
    def in_order(self, hidden):
        for layer in self.layers:
            output = layer(hidden, shift=0.5)
            hidden = output if isinstance(output, torch.Tensor) else output[0]
        return hidden


FORMS = {
    "tensor": lambda hidden: hidden,
    "tuple": lambda hidden: (hidden,),
    "tuple with more": lambda hidden: (hidden, hidden.mean(), None),
    "list": lambda hidden: [hidden, None],
    "named tuple": lambda hidden: Pair(hidden, None),
    "ModelOutput": lambda hidden: BaseModelOutput(last_hidden_state=hidden),
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_blocks_may_return_their_hidden_states_in_any_usual_form(form):
    model = Model(FORMS[form])
    batch = random_tokens(2, 7)
    assert torch.equal(replay(model, [batch])[0][-1], inside(model, batch)[-1])


@torch.no_grad()
def test_hidden_states_may_be_a_keyword():
    def by_keyword(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden_states=hidden, shift=torch.ones(1))
        return hidden

    model = Model(run=by_keyword)
    batch = random_tokens(2, 7)
    assert torch.equal(replay(model, [batch])[0][-1], model(batch, use_cache=False))


def backwards(self, hidden):
    for layer in reversed(self.layers):
        hidden = layer(hidden, shift=0.0)
    return hidden


def twice(self, hidden):
    return self.in_order(self, self.in_order(self, hidden))


def not_all(self, hidden):
    return self.layers[0](hidden, shift=0.0)


def scaled_between(self, hidden):
    for layer in self.layers:
        hidden = layer(hidden, shift=0.0) * 2
    return hidden


def dependent(self, hidden):
    shift = torch.zeros(1)
    for layer in self.layers:
        hidden = layer(hidden, shift=shift)
        shift = hidden.mean()[None]
    return hidden


@torch.no_grad()
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (backwards, "do not run one after the other"),
        (twice, "do not run one after the other"),
        (not_all, "some blocks do not run at all"),
        (scaled_between, "not the output of the block before it"),
        (dependent, "depend on the outputs of earlier blocks"),
    ],
    ids=["backwards", "twice", "not all", "scaled between", "arguments depend on outputs"],
)
def test_a_structure_that_replay_cannot_serve_is_refused(run, message):
    model = Model(run=run)
    with pytest.raises(TrimPruneError, match=f"cannot be pruned block by block: .*{message}"):
        Capture(model, find_blocks(model), random_tokens(1, 8))
    assert all("forward" not in layer.__dict__ for layer in model.layers)


@torch.no_grad()
@pytest.mark.parametrize(
    ("form", "message"),
    [(lambda hidden: {"states": hidden}, "does not return its hidden states"), (lambda hidden: (None,), "got:.*tuple")],
    ids=["plain dict", "None first"],
)
def test_a_block_that_returns_something_else_is_refused(form, message):
    def run(self, hidden):
        for layer in self.layers:
            layer(hidden, shift=0.0)
        return hidden

    model = Model(form, run)
    with pytest.raises(TrimPruneError, match=message):
        Capture(model, find_blocks(model), random_tokens(1, 8))


@torch.no_grad()
def test_a_block_called_without_hidden_states_is_refused():
    class Numbered(Block):
        def forward(self, number, states):
            return self.linear(states)

    def run(self, hidden):
        for number, layer in enumerate(self.layers):
            hidden = layer(number, states=hidden)
        return hidden

    model = Model(run=run)
    model.layers = nn.ModuleList([Numbered(None) for _ in range(2)])
    with pytest.raises(TrimPruneError, match=r"not called with its hidden states(.|\n)*the keywords states"):
        Capture(model, find_blocks(model), random_tokens(1, 8))


@torch.no_grad()
def test_forwards_are_restored_after_an_exception():
    model = make_model("llama")
    blocks = find_blocks(model)
    capture = Capture(model, blocks, random_tokens(1, 8))
    own = lambda *args, **kwargs: "mine"  # noqa: E731
    blocks[1].module.forward = own
    with pytest.raises(IndexError):
        capture(torch.full((1, 8), 10_000))
    assert "forward" not in blocks[0].module.__dict__
    assert blocks[1].module.forward is own
