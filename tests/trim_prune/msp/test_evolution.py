from __future__ import annotations

import math
from itertools import product
from random import Random

import pytest

from trim_prune.msp.evolution import evolve
from trim_prune.msp.space import Space, first_population
from trim_prune.options import MspOptions

SPACE = Space((1,) * 7, 1, 4, 14)
WORTH = (3.0, 0.2, 1.5, 0.1, 2.5, 0.7, 0.4)
NO_PRIORITY = [0.0] * 7


def loss(levels, stage=1):
    """A rough figure at the first stage, the true one at the second."""
    rough = 0.05 * sum(level * (index % 3) for index, level in enumerate(levels)) if stage == 0 else 0.0
    return sum(worth / level for worth, level in zip(WORTH, levels, strict=True)) + rough


class Judge:
    def __init__(self):
        self.calls = []

    def __call__(self, candidates, stage):
        self.calls.append((stage, list(candidates)))
        return [loss(levels, stage) for levels in candidates]


def options(**changes):
    usual = {"stages": (2, 4), "population": 12, "offspring": 12, "parents": 4, "generations": 12}
    return MspOptions(**usual | changes)


def searched(judge, settings, *, seed=0, done=(), **hooks):
    first = first_population(SPACE, None, settings.population, 2, Random(seed), "rank")
    return evolve(SPACE, first, NO_PRIORITY, judge, settings, seed, done, **hooks)


def test_it_finds_the_best_vector_of_a_small_space():
    every = [levels for levels in product(range(1, 5), repeat=7) if SPACE.holds(levels)]
    found = searched(Judge(), options(generations=40, patience=40))
    assert found.best.losses[-1] == pytest.approx(min(map(loss, every)))
    assert found.best.losses[-1] < found.uniform.losses[-1] == loss((2,) * 7)


def test_a_fourth_goes_on_to_the_next_stage_and_uniform_does_always():
    judge = Judge()
    searched(judge, options(generations=2))
    first, second = judge.calls[0][1], judge.calls[1][1]
    assert (judge.calls[0][0], judge.calls[1][0]) == (0, 1)
    assert len(first) == 12
    ranked = sorted(first, key=lambda levels: loss(levels, 0))
    assert second[:3] == ranked[:3]
    assert set(second) == {*ranked[:3], (2,) * 7}
    assert [len(candidates) for stage, candidates in judge.calls[2:] if stage == 1] == [3, 3]


def test_no_vector_is_judged_twice_and_all_are_in_the_space():
    judge = Judge()
    searched(judge, options())
    for stage in (0, 1):
        judged = [levels for at, candidates in judge.calls if at == stage for levels in candidates]
        assert len(set(judged)) == len(judged)
        assert all(SPACE.holds(levels) for levels in judged)


def test_a_seed_decides_everything():
    first, again, other = (searched(Judge(), options(generations=3), seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_a_search_that_stopped_goes_on_as_if_it_had_not(stop):
    whole, kept = [], []
    searched(Judge(), options(), on_generation=lambda generation, found: whole.append((generation, found)))
    done = [generation for generation, _ in whole[:stop]]
    judge = Judge()
    found = searched(judge, options(), done=done, on_generation=lambda generation, _: kept.append(generation))
    assert found == whole[-1][1]
    assert kept == [generation for generation, _ in whole[stop:]]
    assert len([stage for stage, _ in judge.calls if stage == 0]) == len(whole) - stop


def test_it_ends_when_nothing_gets_better():
    found = searched(lambda candidates, stage: [1.0] * len(candidates), options(patience=3))
    assert found.generations == 3
    assert searched(Judge(), options(generations=0)).generations == 0


def test_it_ends_when_there_is_nothing_new():
    space = Space((1, 1), 1, 2, 3)
    found = evolve(space, [(1, 2)], [0.0, 0.0], lambda candidates, stage: [1.0] * len(candidates), options(), 0)
    assert found.generations <= 2
    assert found.evaluations <= 4


def test_a_candidate_that_breaks_the_model_is_the_worst():
    def judge(candidates, stage):
        return [math.nan if levels[1] > 2 else loss(levels, stage) for levels in candidates]

    generations = []
    found = searched(judge, options(), on_generation=lambda generation, _: generations.append(generation))
    broken = [c for generation in generations for c in generation if c.levels[1] > 2]
    assert broken
    assert all(math.isinf(candidate.losses[0]) for candidate in broken)
    assert found.best.levels[1] <= 2


def test_the_parents_are_told_after_every_generation():
    told = []
    found = searched(Judge(), options(generations=3), on_parents=told.append)
    assert [len(parents) for parents in told] == [4] * 4
    assert told[-1][0] == found.best.levels
