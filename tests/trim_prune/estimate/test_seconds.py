"""Seconds that are estimated: positive, finite, and in proportion to the work."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import make_model

from trim_prune.estimate import rates as rates_module
from trim_prune.estimate.rates import Rates, measure_rates
from trim_prune.estimate.seconds import operations, passes, seconds_by_phase
from trim_prune.estimate.subject import Subject
from trim_prune.models.discover import find_blocks
from trim_prune.recipes import build_recipe

CPU = torch.device("cpu")
RATES = Rates(1e9, 5e8, 1e10, 1e9, 5e8)
RECIPES = {
    "trim": {},
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "sparsegpt": {"solver": "sparsegpt", "rows": "uniform"},
    "alps": {"solver": "alps", "rows": "uniform"},
    "swaps": {"solver": "swaps", "rows": "whole"},
    "optimal": {"rows": "optimal", "layers": "optimal"},
    "best": {"preset": "best"},
    "corrected": {"correction": 0.5, "recapture": True},
}


def subject_of(recipe, sequences=8, blocks=2):
    model, made = make_model("llama", num_hidden_layers=blocks), build_recipe({"sparsity": 0.5} | recipe)
    return Subject(model, find_blocks(model), made, CPU, True, True, sequences if made.needs_text else 0, 16)


def estimate(subject, rates=RATES):
    return seconds_by_phase(subject, rates, 4, 1000, 1000)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_phase_takes_a_positive_time(recipe):
    found = estimate(subject_of(RECIPES[recipe]))
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in found.values())
    assert ("forward" in found) == (recipe != "magnitude")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_machine_of_twice_the_speed_takes_half_the_time(recipe):
    subject = subject_of(RECIPES[recipe])
    slow, fast = (estimate(subject, Rates(*(factor * rate for rate in vars(RATES).values()))) for factor in (1, 2))
    assert {name: seconds / 2 for name, seconds in slow.items()} == pytest.approx(fast)


def test_a_support_that_admm_finds_takes_longer_up_to_where_it_stands_still():
    def seconds(**options):
        return estimate(subject_of({"solver": "alps", "rows": "uniform", "alps": options}))["apply"]

    assert seconds(support="score") < seconds(iterations=5) < seconds(iterations=100) == seconds()


def test_more_sequences_and_more_blocks_take_longer():
    few, many = estimate(subject_of({}, 8)), estimate(subject_of({}, 32))
    assert many["forward"] == pytest.approx(4 * few["forward"])
    assert many["statistics"] == pytest.approx(4 * few["statistics"])
    assert many["write"] == few["write"]
    deep = estimate(subject_of({}, 8, blocks=6))
    assert deep["search"] == pytest.approx(3 * few["search"])
    assert sum(deep.values()) > sum(few.values())


def test_operations_of_a_forward():
    weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    attention = 2 * 16 * 32 * 2
    assert operations(subject_of({})) == 8 * 16 * (2 * weights + attention)
    assert passes(subject_of({})) == 1.5
    assert passes(subject_of({"layers": "owl"})) == 2.5
    assert passes(subject_of({"correction": 0.5})) == 3


def test_the_machine_is_measured(monkeypatch, tmp_path):
    for name in ("PRODUCT", "MEMORY", "DISK"):
        monkeypatch.setattr(rates_module, name, 0.01)
    found = measure_rates(CPU, torch.bfloat16, tmp_path / "not" / "there")
    assert all(math.isfinite(rate) and rate > 0 for rate in vars(found).values())
    assert list(tmp_path.iterdir()) == []
