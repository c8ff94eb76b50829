"""The checks for authors of plug-ins notice what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trim_kernels import testing, uniform_counts


@dataclass
class Decision:
    prune_count: torch.Tensor
    quality: float | None = None
    baseline_quality: float | None = None
    rounded: bool = False


def even(weight, inputs, count):
    return Decision(uniform_counts(*weight.shape, count))


def changed(change):
    """A row budget that is right but for what ``change`` does."""

    def budget(weight, inputs, count):
        decision = even(weight, inputs, count)
        change(weight, decision)
        return decision

    return budget


def one_more(weight, decision):
    decision.prune_count[0] += 1


def moved(weight, decision):
    decision.prune_count[0] -= 1
    decision.prune_count[-1] += 1


def touched(weight, decision):
    weight[0, 0] = 7


def another_type(weight, decision):
    decision.prune_count = decision.prune_count.long()


def no_quality(weight, decision):
    decision.quality = float("nan")


calls = iter(range(10**6))


def unsteady(weight, decision):
    if len(weight) > 1 and next(calls) % 2 and decision.prune_count[0] > 0:
        decision.prune_count[[0, 1]] += torch.tensor([-1, 1], dtype=torch.int32)


def test_right_row_budgets_pass():
    testing.check_row_budget(even)
    testing.check_row_budget(even, lambda columns: columns // 2)
    rounded = changed(one_more)

    def missing(weight, inputs, count):
        decision = rounded(weight, inputs, min(count, weight.numel() - len(weight)))
        decision.rounded = True
        return decision

    testing.check_row_budget(missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_more, r"^row budget of .* in float32, .*: prune_count: expected \d+ weights in all, got \d+"),
        (moved, "prune_count: expected 0 to .* weights of a row"),
        (touched, "weight: expected it untouched"),
        (another_type, r"prune_count: expected int32 \[\d+\]"),
        (no_quality, "quality: expected a number, or None, got NaN"),
        (unsteady, "prune_count: expected (the same counts in a second call|0 to)"),
    ],
)
def test_a_wrong_row_budget_is_noticed(change, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_row_budget(changed(change))


def same(weights, inputs, sparsity):
    return [sparsity for block in weights for _ in block]


def touching(weights, inputs, sparsity):
    weights[1][0].mul_(2)
    return same(weights, inputs, sparsity)


def test_a_right_layer_budget_passes():
    testing.check_layer_budget(same)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (lambda *given: same(*given)[1:], r"^layer budget of a model in float32, .*: expected 7 sparsities, .* got 6"),
        (lambda *given: [float("nan")] * 7, "expected finite numbers, got nan"),
        (lambda *given: [next(calls)] * 7, "expected the same sparsities in a second call"),
        (touching, "weight: expected it untouched"),
    ],
)
def test_a_wrong_layer_budget_is_noticed(budget, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_layer_budget(budget)


class Quiet:
    def on_plan(self, facts): ...
    def on_block_start(self, facts): ...
    def on_linear(self, facts): ...
    def on_block_end(self, facts): ...
    def on_save(self, facts): ...


class Writer(Quiet):
    def on_save(self, facts):
        (Path(facts["folder"]) / "mine.txt").write_text("mine")


class Overwriter(Quiet):
    def on_save(self, facts):
        (Path(facts["folder"]) / "run.json").write_text("mine")


class Steerer(Quiet):
    def on_plan(self, facts):
        facts["linears"][0]["prune_count"] = 0


class Hopeful(Quiet):
    def on_linear(self, facts):
        facts["quality"] + 1


class Starter(Quiet):
    def on_plan(self, facts):
        self.linears = facts["linears"]

    def on_save(self, facts):
        len(self.linears)


@pytest.mark.parametrize("callback", [Quiet, Writer])
def test_right_callbacks_pass(callback):
    testing.check_callback(callback)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Overwriter, "on_save in a run that writes: .* got changes in run.json"),
        (Steerer, "on_plan in a run that writes: .*expected the facts untouched"),
        (Hopeful, "on_linear in a run of which little is known: KeyError: 'quality'"),
        (Starter, "on_save in a run that takes heads and channels: AttributeError"),
    ],
)
def test_a_wrong_callback_is_noticed(callback, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_callback(callback)
