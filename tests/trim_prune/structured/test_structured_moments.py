"""Moments that are streamed are those of all vectors at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model, random_tokens

from trim_prune import TrimPruneError
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.states import States
from trim_prune.structured.moments import Moments, measure
from trim_prune.structured.parts import find_parts


def vectors(sequences, tokens, columns, *, mean=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sequences, tokens, columns, generator=generator) + mean


def direct(inputs):
    flat = inputs.double().flatten(0, 1)
    centred = flat - flat.mean(dim=0)
    return flat.mean(dim=0), centred.mT @ centred / len(flat)


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 9), st.sampled_from([0.0, -3.0, 1000.0]))
def test_mean_and_covariance_are_those_of_the_whole(sequences, tokens, columns, mean):
    inputs = vectors(sequences, tokens, columns, mean=mean)
    moments = Moments()
    moments.add(inputs)
    wanted_mean, wanted = direct(inputs)
    assert moments.tokens == sequences * tokens
    torch.testing.assert_close(moments.mean, wanted_mean, rtol=1e-6, atol=1e-6)
    found = moments.covariance(torch.float64)
    # As good as with no mean: the spread is 1.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_batches_do_not_matter(dtype):
    inputs = vectors(6, 5, 8).to(dtype)
    found = []
    for size in (1, 4, 6):
        moments = Moments()
        for batch in inputs.split(size):
            moments.add(batch)
        found.append(moments)
    assert all(torch.equal(each.mean, found[0].mean) for each in found)
    assert all(torch.equal(each.covariance(torch.float32), found[0].covariance(torch.float32)) for each in found)
    torch.testing.assert_close(found[0].covariance(torch.float64), direct(inputs)[1], rtol=1e-5, atol=1e-5)


def states_of(model, tokens):
    blocks = find_blocks(model)
    return blocks, States([Capture(model, blocks, tokens)(tokens)], torch.device("cpu"))


def inputs_of(part, states):
    """What enters the first producer and the consumer of a part, by their names."""
    seen = {}
    for name in (part.producers[0].name, part.consumer):
        part.linear(name).register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    states.run(part.block, part.block.module, 0)
    return seen


@torch.no_grad()
def test_a_part_is_measured_where_its_consumer_reads(family):
    model = make_model(family)
    blocks, states = states_of(model, random_tokens(3, 10))
    hidden = states.hidden[0].clone()
    for part in find_parts(blocks[0], model.config):
        seen = inputs_of(part, states)
        moments, energy = measure(states, part)
        inputs = seen[part.consumer].reshape(3, 10, -1)
        torch.testing.assert_close(moments.covariance(torch.float64), direct(inputs)[1], rtol=1e-4, atol=1e-7)
        wanted = seen[part.producers[0].name].double().flatten(0, -2).square().sum(dim=0)
        torch.testing.assert_close(energy, wanted, rtol=1e-6, atol=1e-9)
    assert torch.equal(states.hidden[0], hidden)


@torch.no_grad()
def test_nan_in_the_inputs_is_refused():
    model = make_model("llama")
    blocks, states = states_of(model, random_tokens(2, 8))
    states.hidden[0][1, 3, 2] = float("nan")
    with pytest.raises(TrimPruneError, match=r"NaN or infinity in the inputs of a linear(.|\n)*block 0, attention"):
        measure(states, find_parts(blocks[0], model.config).attention)
