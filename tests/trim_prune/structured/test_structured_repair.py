"""The repairs are the regressions that they say they are, and their errors are what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.factor import Factor
from trim_prune.structured import repair as module
from trim_prune.structured.repair import Inputs, repair


def problem(seed, tokens=50, columns=8, outputs=4, mean=1.5):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = draw(tokens, columns) @ draw(columns, columns) + mean
    kept = torch.arange(columns)[torch.randperm(columns, generator=generator)[: columns // 2].sort().values]
    return inputs, draw(outputs, columns), kept


def moments(inputs):
    centred = inputs - inputs.mean(dim=0)
    return Inputs(inputs.mean(dim=0), centred.mT @ centred / len(inputs), len(inputs))


def run(inputs, weight, kept, how, *, intercept=True, damping=0.0):
    return repair(weight, moments(inputs), kept, how, intercept=intercept, damping=damping)


def lacking(inputs, weight, kept, found):
    """Mean square of what the output lacks, as a share of its own."""
    whole = inputs @ weight.mT
    bias = 0 if found.bias is None else found.bias
    return float((whole - inputs[:, kept] @ found.weight.mT - bias).square().sum() / whole.square().sum())


@pytest.mark.parametrize("how", ["none", "affine", "full"])
@pytest.mark.parametrize("intercept", [True, False])
@given(st.integers(0, 10**6))
def test_errors_are_what_the_outputs_lack(how, intercept, seed):
    inputs, weight, kept = problem(seed)
    found = run(inputs, weight, kept, how, intercept=intercept)
    assert found.error == pytest.approx(lacking(inputs, weight, kept, run(inputs, weight, kept, "none")), rel=1e-8)
    assert found.repaired_error == pytest.approx(lacking(inputs, weight, kept, found), rel=1e-5, abs=1e-9)
    assert found.repaired_error <= found.error * (1 + 1e-9)
    assert (found.bias is None) == (how == "none" or not intercept)


@given(st.integers(0, 10**6))
def test_affine_is_a_polynomial_of_degree_one_through_every_output(seed):
    inputs, weight, kept = problem(seed)
    found = run(inputs, weight, kept, "affine")
    assert found.how == "affine"
    x, y = inputs[:, kept] @ weight[:, kept].mT, inputs @ weight.mT
    for row in range(len(weight)):
        slope, intercept = np.polyfit(x[:, row].numpy(), y[:, row].numpy(), 1)
        torch.testing.assert_close(found.weight[row], slope * weight[row, kept], rtol=1e-8, atol=1e-8)
        assert float(found.bias[row]) == pytest.approx(intercept, rel=1e-8, abs=1e-8)


@given(st.integers(0, 10**6))
def test_without_a_bias_affine_goes_through_the_origin(seed):
    inputs, weight, kept = problem(seed)
    found = run(inputs, weight, kept, "affine", intercept=False)
    assert found.how == "slope"
    x, y = inputs[:, kept] @ weight[:, kept].mT, inputs @ weight.mT
    slope = (x * y).sum(dim=0) / x.square().sum(dim=0)
    torch.testing.assert_close(found.weight, slope[:, None] * weight[:, kept])


@pytest.mark.parametrize("intercept", [True, False])
@given(st.integers(0, 10**6))
def test_full_is_least_squares_on_the_kept_inputs(intercept, seed):
    inputs, weight, kept = problem(seed)
    found = run(inputs, weight, kept, "full", intercept=intercept)
    given_ = inputs[:, kept]
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.cat([given_, ones], dim=1) if intercept else given_, inputs @ weight.mT).solution
    torch.testing.assert_close(found.weight, best[: len(kept)].mT, rtol=1e-3, atol=1e-3)
    if intercept:
        torch.testing.assert_close(found.bias, best[-1], rtol=1e-3, atol=1e-2)


def test_damping_draws_towards_the_weights_as_they_are():
    inputs, weight, kept = problem(0)
    found = run(inputs, weight, kept, "full", damping=1e6)
    torch.testing.assert_close(found.weight, weight[:, kept], rtol=1e-4, atol=1e-4)


def test_full_finds_everything_again_in_inputs_that_repeat():
    inputs, weight, _ = problem(1)
    inputs[:, 4:] = inputs[:, :4] - 2
    found = run(inputs, weight, torch.arange(4), "full")
    assert found.error > 0.1
    assert found.repaired_error < 1e-9
    assert run(inputs, weight, torch.arange(4), "affine").repaired_error > 1e-3


@pytest.mark.parametrize("intercept", [True, False])
def test_what_is_constant_keeps_its_weights(intercept):
    inputs, weight, kept = problem(2, mean=0.0)
    inputs[:, kept] = 0
    found = run(inputs, weight, kept, "affine", intercept=intercept)
    assert torch.equal(found.weight, weight[:, kept])
    if intercept:
        torch.testing.assert_close(found.bias, (inputs @ weight.mT).mean(dim=0))


def test_a_factorisation_that_fails_leaves_the_affine_repair_and_says_so(monkeypatch):
    inputs, weight, kept = problem(3)
    monkeypatch.setattr(module, "factorise", lambda *_: Factor(None, ("float64", "mask only")))
    found = run(inputs, weight, kept, "full")
    assert found.how == "affine"
    assert found.steps == ("float64", "affine only")
    assert torch.equal(found.weight, run(inputs, weight, kept, "affine").weight)


def test_everything_kept_needs_no_repair():
    inputs, weight, _ = problem(4)
    for how in ("affine", "full"):
        found = run(inputs, weight, torch.arange(8), how)
        torch.testing.assert_close(found.weight, weight, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.bias, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
        assert found.repaired_error == pytest.approx(0, abs=1e-9)
