from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from trim_prune.models.discover import Linear
from trim_prune.models.watch import watched


class Conv1D(nn.Module):
    """As transformers has it: the weight is [inputs, outputs]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


class Holder(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))


def calls_of(linears, run):
    """What ``run`` multiplies with which linear."""
    found = []
    with watched(linears, lambda *call: found.append(call)):
        output = run()
    return found, output


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


def test_a_module_is_watched(inputs):
    linear = Linear("a", 0, nn.Linear(4, 5))
    ((which, seen, output),), result = calls_of([linear], lambda: linear.module(inputs))
    assert which is linear
    assert seen is inputs
    assert output is result


@pytest.mark.parametrize("columns", [5, 4], ids=["5 x 4", "square"])
def test_a_transposed_weight_is_watched(inputs, columns):
    linear = Linear("a", 0, Conv1D(columns, 4), transposed=True)
    assert linear.shape == (columns, 4)
    ((which, seen, output),), result = calls_of([linear], lambda: linear.module(inputs))
    assert which is linear
    assert torch.equal(seen.view(2, 3, 4), inputs)
    assert torch.equal(output.view(2, 3, columns), result)
    torch.testing.assert_close(seen @ linear.weight.t() + linear.module.bias, output)


def test_a_weight_that_is_used_the_other_way_round_is_another_linear(inputs):
    linear = Linear("a", 0, nn.Linear(4, 4))
    assert calls_of([linear], lambda: inputs @ linear.module.weight)[0] == []


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: functional.linear(x, w),
        lambda x, w: x @ w.t(),
        lambda x, w: x.matmul(w.T),
        lambda x, w: torch.mm(x.flatten(0, 1), w.mT),
        lambda x, w: torch.addmm(torch.zeros(5), x.flatten(0, 1), w.t()),
        lambda x, w: w @ x.transpose(1, 2),
    ],
    ids=["linear", "@", "matmul", "mm", "addmm", "weight first"],
)
def test_every_form_of_the_product_is_watched(inputs, product):
    linear = Linear("a", 0, Holder(5, 4))
    ((_, seen, output),), _ = calls_of([linear], lambda: product(inputs, linear.module.weight))
    assert torch.equal(seen.reshape(2, 3, 4), inputs)
    torch.testing.assert_close(output.reshape(2, 3, 5), inputs @ linear.weight.t())


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_in_one_parameter_are_told_apart(inputs, transposed):
    module = Holder(3, 4, 4)
    linears = [Linear(f"a.{e}.weight", 0, module, "weight", e, transposed) for e in range(3)]

    def run():
        for expert in (2, 0):
            weight = module.weight[expert]
            _ = inputs @ weight if transposed else functional.linear(inputs, weight)

    found, _ = calls_of(linears, run)
    assert [linear.expert for linear, _, _ in found] == [2, 0]
    for linear, _, output in found:
        torch.testing.assert_close(output, inputs @ linear.weight.t())


@pytest.mark.parametrize("first", [False, True], ids=["inputs first", "weight first"])
def test_gradients_pass_through_what_is_handed_on(inputs, first):
    linear, gradients = Linear("a", 0, Holder(5, 4)), []
    inputs.requires_grad_()
    with watched([linear], lambda _linear, _inputs, output: output.register_hook(gradients.append)):
        weight = linear.module.weight
        output = (weight @ inputs.transpose(1, 2)).transpose(1, 2) if first else functional.linear(inputs, weight)
    output.square().sum().backward()
    assert len(gradients) == 1
    torch.testing.assert_close(gradients[0], 2 * output.detach())


def test_nothing_is_watched_afterwards_even_if_the_run_fails(inputs):
    linear, found = Linear("a", 0, nn.Linear(4, 5)), []
    with pytest.raises(RuntimeError), watched([linear], lambda *call: found.append(call)):
        linear.module(inputs[..., :2])
    linear.module(inputs)
    assert found == []


def test_what_is_done_to_an_edited_weight_is_done_to_the_model():
    module = Holder(3, 4, 5)
    for expert, transposed in ((1, False), (2, True)):
        linear = Linear("a", 0, module, "weight", expert, transposed)
        with linear.edited() as weight:
            assert weight.is_contiguous()
            weight[1] = 0
        part = module.weight[expert].t() if transposed else module.weight[expert]
        assert not part[1].any()
        assert part[0].all()
    assert module.weight[0].all()
