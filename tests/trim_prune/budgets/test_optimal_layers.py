from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

from trim_prune import prune
from trim_prune.budgets.layers.optimal import Losses, log_multiplier, taken

SMALL = {"samples": 4, "seqlen": 16, "score": "wanda", "layers": "optimal", "rows": "optimal"}


@pytest.fixture
def pruned(tokenizer, text):
    def run(recipe, model=None):
        model = model or make_model("llama")
        told = []
        result = prune(model, SMALL | recipe, [text], tokenizer=tokenizer, on_event=told.append)
        return result, model, told

    return run


def shares(result):
    return {linear.name: linear.sparsity for linear in result.linears}


@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("rows", ["uniform", "trim", "optimal", "whole"])
def test_the_whole_is_met_to_the_weight_and_no_linear_leaves_the_spread(pruned, sparsity, rows):
    result, model, _ = pruned({"sparsity": sparsity, "rows": rows})
    assert result.sparsity.pruned == round(sparsity * result.sparsity.prunable_weights)
    assert sum(zeros(linear.weight) for linear in linears_of(model, "llama").values()) == result.sparsity.pruned
    # A row has a whole number of weights, of at least 32; the shift to the exact sum is smaller.
    assert all(abs(share - sparsity) <= 0.12 + 1 / 32 for share in shares(result).values())
    assert len(set(shares(result).values())) > 5


def test_a_linear_that_the_loss_does_not_feel_loses_most(pruned):
    """Of the second block, whose feed-forward part is all but silent."""
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e-4
    result, _, _ = pruned({"sparsity": 0.5}, model)
    found = shares(result)
    silent = [found[f"model.layers.1.mlp.{name}_proj"] for name in ("gate", "up")]
    assert min(silent) > 0.6
    assert min(silent) == max(found.values()) or min(silent) > sorted(found.values())[-4]


@pytest.mark.parametrize("total", [5, 13, 20, 31])
def test_the_multiplier_divides_counts_as_the_best_of_all_divisions_does(total):
    errors = [lambda k: k**2, lambda k: 4 * k**1.5]
    curves = [torch.tensor([[float(error(k)) for k in range(21)]]) for error in errors]
    logs = [step / 16 - 6 for step in range(200)]
    losses = [Losses(logs, [taken(curve, 2.0**log) for log in logs]) for curve in curves]
    log = log_multiplier(losses, total)
    found = [one.at(log) for one in losses]
    best = min(errors[0](a) + errors[1](total - a) for a in range(21) if 0 <= total - a <= 20)
    assert sum(found) == pytest.approx(total)
    assert sum(error(count) for error, count in zip(errors, found, strict=True)) == pytest.approx(best, rel=0.02)


def test_at_a_multiplier_every_row_takes_what_is_cheapest():
    curve = torch.tensor([[0.0, 1, 5, 6], [0, 0, 0, 9], [3, 2, 1, 0]])
    assert [taken(curve, multiplier) for multiplier in (0.5, 1.5, 3.0, 100)] == [0 + 2 + 3, 1 + 2 + 3, 3 + 2 + 3, 9]


def test_left_out_linears_have_the_sparsity_of_the_whole(pruned):
    result, _, _ = pruned({"sparsity": 0.5, "optimal": {"leave_out": ["*.mlp.*"]}})
    found = shares(result)
    assert all(share == pytest.approx(0.5, abs=0.01) for name, share in found.items() if ".mlp." in name)
    assert any(abs(share - 0.5) > 0.03 for name, share in found.items() if ".mlp." not in name)


def test_everything_left_out_is_uniform(pruned):
    result, _, _ = pruned({"sparsity": 0.5, "optimal": {"leave_out": ["*"]}})
    assert all(share == pytest.approx(0.5, abs=0.001) for share in shares(result).values())


def test_the_spread_and_the_sequences_are_read(pruned):
    recipes = [{"spread": 0.02}, {"spread": 0.3}, {"spread": 0.3, "sequences": 0}, {"spread": 0.3, "sequences": 1}]
    found = [pruned({"sparsity": 0.5, "rows": "uniform", "optimal": recipe}) for recipe in recipes]
    assert max(abs(share - 0.5) for share in shares(found[0][0]).values()) < 0.06
    assert max(abs(share - 0.5) for share in shares(found[1][0]).values()) > 0.1
    for one, other in itertools.combinations(found, 2):
        assert shares(one[0]) != shares(other[0])
    told = [[event.data["sequence"] for event in events if event.kind == "gradients"] for *_, events in found]
    assert told == [[1, 2, 3, 4], [1, 2, 3, 4], [], [1]]


def test_it_goes_with_patterns(pruned):
    result, _, _ = pruned({"sparsity": 0.5, "pattern": "of 8", "rows": "uniform"})
    assert result.sparsity.of_prunable == pytest.approx(0.5, abs=0.01)
    assert len({linear.pattern for linear in result.linears}) > 1


def test_the_walk_is_told(pruned):
    _, _, events = pruned({"sparsity": 0.5})
    assert [event.data for event in events if event.kind == "errors"] == [
        {"block": 0, "blocks": 2},
        {"block": 1, "blocks": 2},
    ]


def test_every_family(family, tokenizer, text):
    result = prune(make_model(family), SMALL | {"sparsity": 0.5}, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)


@pytest.mark.parametrize(
    ("log", "count"), [(-math.inf, 2.0), (0, 2.0), (0.5, 3.0), (1, 4.0), (1.25, 4.5), (2, 6.0), (9, 6.0)]
)
def test_losses_are_interpolated_and_level_outside(log, count):
    assert Losses([0.0, 1.0, 2.0], [2.0, 4.0, 6.0]).at(log) == pytest.approx(count)
