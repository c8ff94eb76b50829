"""The score of the optimal brain surgeon."""

from __future__ import annotations

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

import trim_kernels
from trim_kernels import row_order
from trim_prune import Recipe, ScoreRequest, prune, score_linear
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.factor import Factor
from trim_prune.scores import SCORES

RECIPE = Recipe(sparsity=0.5, score="obs", damping=0.01)


def obs(weight, inputs):
    return score_linear(RECIPE, weight, inputs).column_scale


def random(rows, columns, tokens=200):
    generator = torch.Generator().manual_seed(rows)
    spread = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(4, tokens // 4, columns, generator=generator) @ (spread + torch.eye(columns))
    return torch.randn(rows, columns, generator=generator), inputs


def published_score(weight, inputs):
    """w^2 / U_jj^2 of the published code: U from the Cholesky factor of the inverse, 1 % damping, in float64."""
    x = inputs.flatten(0, 1).double()
    hessian = x.t() @ x
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    return weight.double() ** 2 / upper.diagonal() ** 2


def test_its_square_is_the_published_score():
    weight, inputs = random(5, 24)
    score = (weight.abs() * obs(weight, inputs)).double().square()
    torch.testing.assert_close(score, published_score(weight, inputs), rtol=1e-4, atol=0)


def test_it_orders_weights_as_the_published_score_does():
    weight, inputs = random(8, 48)
    expected = published_score(weight, inputs).argsort(dim=1, stable=True)
    assert row_order(weight, column_scale=obs(weight, inputs)).tolist() == expected.tolist()


def test_weights_whose_squares_leave_float32_are_told_apart():
    weight, inputs = random(1, 16)
    scale = obs(weight, inputs)
    for size in (1e-30, 1e30):
        order = row_order(weight * size, column_scale=scale)
        assert order.tolist() == row_order(weight, column_scale=scale).tolist()


def test_a_column_that_is_always_zero_scores_zero():
    weight, inputs = random(3, 12)
    inputs[..., 4] = 0
    scale = obs(weight, inputs)
    assert scale[4] == 0
    assert zeros(scale) == 1


def test_without_a_factor_it_is_wandas_score():
    weight, inputs = random(3, 12)
    statistics = LinearStatistics()
    statistics.add(inputs, frozenset({"gram", "column_energy"}), [])
    statistics._factors[RECIPE.damping] = Factor(None, ("float64", "mask only"))
    request = ScoreRequest(weight, statistics, RECIPE)
    expected = SCORES.get("wanda").function(request).column_scale
    torch.testing.assert_close(SCORES.get("obs").function(request).column_scale, expected, rtol=1e-6, atol=0)
    assert statistics.steps == ("float64", "mask only")


@pytest.mark.parametrize("rows", ["uniform", "whole"])
def test_a_prune_by_obs(rows, tokenizer, text):
    model = make_model("llama")
    recipe = {"sparsity": 0.6, "samples": 4, "seqlen": 16, "score": "obs", "rows": rows}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert sum(zeros(m.weight) for m in linears_of(model, "llama").values()) == result.sparsity.pruned
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    assert all(linear.steps == () for linear in result.linears)


def test_the_steps_of_a_failed_factorisation_are_in_the_result(tokenizer, text, monkeypatch):
    def refuse(hessian):
        raise ValueError("not positive definite")

    monkeypatch.setattr(trim_kernels, "inverse_factor", refuse)
    recipe = {"sparsity": 0.5, "samples": 4, "seqlen": 16, "rows": "uniform"}
    model, plain = make_model("llama"), make_model("llama")
    result = prune(model, recipe | {"score": "obs"}, [text], tokenizer=tokenizer)
    prune(plain, recipe | {"score": "wanda"}, [text], tokenizer=tokenizer)
    assert all(linear.steps[-1] == "mask only" for linear in result.linears)
    for name, linear in linears_of(model, "llama").items():
        assert torch.equal(linear.weight == 0, plain.get_submodule(name).weight == 0)
