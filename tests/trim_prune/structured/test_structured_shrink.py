"""What is taken out leaves exactly the rest."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_model, random_tokens

from trim_prune.models.discover import find_blocks
from trim_prune.structured.parts import find_parts
from trim_prune.structured.shrink import indices, keep_units


def parts_of(model):
    return [part for block in find_blocks(model) for part in find_parts(block, model.config)]


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=random_tokens(2, 20)).logits


def take_out(part, gone, *, masked):
    kept = torch.tensor([unit for unit in range(part.units) if unit not in gone])
    keep_units(part, kept, part.weight[:, indices(kept, part.width)].clone(), None, masked=masked)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "taken out"])
def test_units_that_put_out_nothing_may_go(family, masked):
    model = make_model(family)
    gone = {"attention": {1}, "feed-forward": {0, 5, 47}}
    for part in parts_of(model):
        for unit in gone[part.kind]:
            part.weight[:, unit * part.width : (unit + 1) * part.width] = 0
    before = logits_of(model)
    for part in parts_of(model):
        take_out(part, gone[part.kind], masked=masked)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_masked_model_computes_what_the_smaller_one_does(family, dtype):
    found = []
    for masked in (True, False):
        model = make_model(family, dtype=dtype)
        for part in parts_of(model):
            take_out(part, {0} if part.heads else set(range(10, 31)), masked=masked)
        found.append(logits_of(model).float())
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


def test_rows_columns_and_biases_of_what_stays_are_untouched(family):
    model, whole = make_model(family), make_model(family)
    for part, old in zip(parts_of(model), parts_of(whole), strict=True):
        kept = torch.arange(1, part.units, 2)
        weight = old.weight[:, indices(kept, part.width)] + 1
        keep_units(part, kept, weight, torch.ones(len(weight)), masked=False)
        for producer in part.producers:
            new, dense, rows = part.linear(producer.name), old.linear(producer.name), indices(kept, producer.rows)
            assert torch.equal(new.weight, dense.weight[rows])
            assert (new.bias is None) == (dense.bias is None)
            assert new.bias is None or torch.equal(new.bias, dense.bias[rows])
            assert new.out_features == len(kept) * producer.rows
        new, dense = part.linear(part.consumer), old.linear(part.consumer)
        assert torch.equal(new.weight, weight)
        assert torch.equal(new.bias, torch.ones(32) + (0 if dense.bias is None else dense.bias))


def test_the_zeros_of_a_masked_part_are_its_units(family):
    model = make_model(family)
    for part in parts_of(model):
        linears = [part.linear(name) for name in (*(producer.name for producer in part.producers), part.consumer)]
        parameters = [parameter for linear in linears for parameter in linear.parameters()]
        before = sum(int((parameter == 0).sum()) for parameter in parameters)
        take_out(part, {0}, masked=True)
        zeros = sum(int((parameter == 0).sum()) for parameter in parameters)
        assert zeros - before == part.unit_parameters


def test_a_cache_of_keys_holds_the_smaller_heads(family):
    model = make_model(family)
    for part in parts_of(model):
        if part.heads:
            take_out(part, {0}, masked=False)
    tokens = random_tokens(1, 12)
    with torch.no_grad():
        first = model(input_ids=tokens[:, :11], use_cache=True)
        last = model(input_ids=tokens[:, 11:], past_key_values=first.past_key_values, use_cache=True).logits
    torch.testing.assert_close(last[:, 0], logits_of_tokens(model, tokens)[:, -1], rtol=1e-4, atol=1e-4)


def logits_of_tokens(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens).logits
