"""Shares of blocks: by the cosine of input and output, by rules, or alike."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch.nn import functional

from trim_prune import TrimPruneError
from trim_prune.events import Events
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.states import States
from trim_prune.structured.ratios import Share, by_cosine, by_table, cosines
from trim_prune.structured.recipe import BlockRule


def test_weights_are_a_softmax_over_the_blocks_that_change_their_input_least():
    values = [0.2, 0.9, 0.8, 0.9, 0.5]
    shares = by_cosine(values, 3, 10.0)
    wanted = 3 * torch.softmax(torch.tensor([9.0, 8.0, 9.0]), dim=0)
    assert [share.weight for share in shares] == pytest.approx([0, *wanted.tolist(), 0])
    assert sum(share.weight for share in shares) == pytest.approx(3)
    assert [share.weight for share in by_cosine([0.5, 0.5, 0.5], 2, 1.0)] == [1, 1, 0]
    assert [share.weight for share in by_cosine(values, 5, 0.0)] == [1] * 5


@torch.no_grad()
def test_cosines_are_those_of_hidden_states_before_and_after_a_block(family):
    model, tokens = make_model(family), random_tokens(5, 12)
    blocks = find_blocks(model)
    capture = Capture(model, blocks, tokens)
    states = States([capture(batch) for batch in tokens.split(2)], torch.device("cpu"))
    before = [hidden.clone() for hidden in states.hidden]
    events = []
    found = cosines(states, blocks, Events(events.append))
    assert all(map(torch.equal, states.hidden, before))
    seen = {}
    for block in blocks:
        block.module.register_forward_hook(
            lambda _, args, output, block=block: seen.__setitem__(
                block.index, (args[0], output if isinstance(output, torch.Tensor) else output[0])
            )
        )
    model(input_ids=tokens)
    for block, value in zip(blocks, found, strict=True):
        wanted = functional.cosine_similarity(*seen[block.index], dim=-1).mean()
        assert value == pytest.approx(float(wanted), rel=1e-5)
    assert [event.data["cosine"] for event in events] == found


def test_rules_fix_the_ratio_of_blocks():
    blocks = find_blocks(make_model("llama"))
    assert by_table([BlockRule(match="*.1", ratio=0.25)], blocks) == [Share(1.0), Share(0.0, 0.25)]
    with pytest.raises(TrimPruneError, match=r"matches no block(.|\n)*model.layers.0"):
        by_table([BlockRule(match="layers.9", ratio=0.1)], blocks)
    with pytest.raises(TrimPruneError, match=r"different ratios(.|\n)*model.layers.0"):
        by_table([BlockRule(match="*", ratio=0.1), BlockRule(match="*.0", ratio=0.2)], blocks)


def test_a_table_is_followed(prune_tiny):
    found = prune_tiny("llama", {"params": 0.9, "layers": "table", "table": [{"match": "*.0", "ratio": 0.0}]})
    assert {part.block for part in found.parts} == {1}
    assert found.cosines is None


def test_cosines_are_told(prune_tiny):
    found = prune_tiny("llama", {"params": 0.9, "layers": "cosine", "cosine": {"blocks": 0.5}})
    assert len(found.cosines) == 2
    assert {part.block for part in found.parts} == {max((0, 1), key=lambda block: found.cosines[block])}
