"""RIA: relative importance times the root of Wanda's norm."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

from trim_kernels import testing
from trim_prune import Recipe, RiaOptions, TrimPruneError, prune, score_linear, tiles


def ria(weight, inputs, **options):
    return score_linear(Recipe(sparsity=0.5, score="ria", ria=options), weight, inputs).score


def by_definition(weight, inputs, a):
    """The formula in Python floats."""
    w = weight.abs().double().tolist()
    x = inputs.double().square().sum((0, 1)).tolist()
    rows, columns = range(weight.shape[0]), range(weight.shape[1])
    of_row = [math.fsum(w[i]) or 1 for i in rows]
    of_column = [math.fsum(w[i][j] for i in rows) or 1 for j in columns]
    norm = [math.sqrt(x[j] / len(inputs)) for j in columns]
    return torch.tensor(
        [[(w[i][j] / of_column[j] + w[i][j] / of_row[i]) * norm[j] ** a for j in columns] for i in rows]
    )


@pytest.fixture(params=[1, 1 << 20], ids=["a row a tile", "one tile"])
def tile(request, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", request.param)


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", testing.DTYPES.values(), ids=testing.DTYPES)
@pytest.mark.parametrize("matrix", ["1x1", "one_row", "one_column", "17x129", "ties", "subnormal", "huge", "all_zero"])
def test_the_formula(matrix, dtype, a, tile):
    weight = testing.nasty_matrix(matrix, dtype)
    inputs = torch.randn(3, 5, weight.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(ria(weight, inputs, a=a), by_definition(weight, inputs, a), rtol=1e-6, atol=0)


def test_rows_and_columns_of_zeros_score_zero():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    weight[2], weight[:, 3] = 0, 0
    score = ria(weight, torch.ones(2, 3, 6))
    assert not score[2].any()
    assert not score[:, 3].any()
    assert zeros(score) == 9


def test_the_published_power_is_the_default():
    weight, inputs = testing.nasty_matrix("3x7", torch.float32), torch.randn(2, 3, 7)
    assert torch.equal(ria(weight, inputs), ria(weight, inputs, a=0.5))
    assert RiaOptions().a == 0.5


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_prune_by_ria(family, tokenizer, text):
    model = make_model(family)
    recipe = {"sparsity": 0.6, "samples": 4, "seqlen": 16, "score": "ria", "rows": "uniform", "ria": {"a": 0.7}}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert result.recipe.ria.a == 0.7
    assert sum(zeros(m.weight) for m in linears_of(model, family).values()) == result.sparsity.pruned
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)


def test_its_options_without_it_are_an_error():
    with pytest.raises(TrimPruneError, match=r"options of ria are given(.|\n)*score: wanda(.|\n)*score: ria"):
        Recipe.build({"sparsity": 0.5, "ria": {"a": 1.0}})
    with pytest.raises(TrimPruneError, match=r"ria\.a: .*greater than or equal to 0, got -1"):
        Recipe.build({"sparsity": 0.5, "score": "ria", "ria": {"a": -1.0}})
