"""Against autograd on the whole model, one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch.nn import functional

from trim_prune import TrimPruneError
from trim_prune.models.capture import Capture
from trim_prune.models.discover import find_blocks
from trim_prune.output_gradients import output_gradients

CPU = torch.device("cpu")
TOKENS = random_tokens(4, 12)


def captured(model):
    with torch.no_grad():
        return Capture(model, find_blocks(model), TOKENS)


def by_autograd(model, token_ids):
    """The mean over all tokens, from outputs that the whole model's graph retains."""
    linears = [linear for block in find_blocks(model) for linear in block.linears]
    outputs = {}
    handles = [
        linear.module.register_forward_hook(lambda _, __, output, name=linear.name: outputs.update({name: output}))
        for linear in linears
    ]
    sums = {linear.name: 0.0 for linear in linears}
    for sequence in token_ids:
        logits = model(input_ids=sequence[None], use_cache=False).logits[0, :-1]
        loss = functional.cross_entropy(logits.float(), sequence[1:], reduction="sum")
        for name, gradient in zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True):
            sums[name] = sums[name] + gradient.double().flatten(0, -2).square().sum(dim=0)
    for handle in handles:
        handle.remove()
    return {name: total / token_ids.numel() for name, total in sums.items()}


def test_they_equal_those_of_autograd_on_the_whole_model(family):
    model = make_model(family)
    ours, theirs = output_gradients(captured(model), TOKENS, CPU), by_autograd(model, TOKENS)
    assert len(ours) == len(theirs)
    for linear, found in ours.items():
        assert found.dtype == torch.float32
        assert found.max() > 0
        torch.testing.assert_close(found.double(), theirs[linear.name], rtol=1e-4, atol=1e-6 * float(found.max()))


@pytest.mark.parametrize(("dtype", "relative"), [(torch.bfloat16, 0.2), (torch.float16, 0.03)])
def test_half_precision_comes_near(dtype, relative):
    model = make_model("llama", dtype=dtype)
    ours = output_gradients(captured(model), TOKENS, CPU)
    exact = output_gradients(captured(model.float()), TOKENS, CPU)
    for half, single in zip(ours.values(), exact.values(), strict=True):
        assert float((half - single).norm() / single.norm()) < relative


def test_the_model_is_left_as_it_was():
    model = make_model("opt").train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    before = [parameter.detach().clone() for parameter in parameters]
    model.eval()
    capture = captured(model)
    model.train()
    told = []
    output_gradients(capture, TOKENS, CPU, on_sequence=told.append)
    assert told == [1, 2, 3, 4]
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert [parameter.grad is None for parameter in parameters] == [True, False] + [True] * (len(parameters) - 2)
    assert all(torch.equal(parameter, earlier) for parameter, earlier in zip(parameters, before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_gradient_is_refused():
    model = make_model("llama")
    capture = captured(model)
    with pytest.raises(TrimPruneError, match="predicts nothing"):
        output_gradients(capture, TOKENS[:, :1], CPU)
    with torch.no_grad():
        model.lm_head.weight[5, 5] = torch.nan
    with pytest.raises(TrimPruneError, match=r"NaN or infinity in the gradient of the outputs(.|\n)*block 0"):
        output_gradients(capture, TOKENS, CPU)


def test_a_model_without_a_head_is_refused():
    """Of Llama, what gives hidden states; errors alone need no more."""
    model = make_model("llama").model
    with pytest.raises(TrimPruneError, match=r"predicts no tokens(.|\n)*language-model head"):
        output_gradients(captured(model), TOKENS, CPU)
