from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.msp.space import Space, first_population


@st.composite
def spaces(draw, *, alike=False):
    units = draw(st.integers(1, 12))
    costs = draw(st.lists(st.integers(1, 40), min_size=units, max_size=units))
    if alike:
        costs = [costs[0]] * units
    low = draw(st.integers(0, 3))
    high = draw(st.integers(low, low + 6))
    budget = draw(st.integers(low * sum(costs), (high + 1) * sum(costs)))
    return Space(tuple(costs), low, high, budget)


@st.composite
def problems(draw, **options):
    """A space, sensitivities of its units, and a source of chance."""
    space = draw(spaces(**options))
    units = len(space.costs)
    sensitivity = draw(st.lists(st.floats(0, 1e9), min_size=units, max_size=units))
    return space, sensitivity, Random(draw(st.integers(0, 1000)))


@given(problems(), st.data())
def test_every_operator_stays_in_the_space(problem, data):
    space, priority, random = problem
    units = len(space.costs)
    anything = data.draw(st.lists(st.integers(-3, 12), min_size=units, max_size=units))
    wishes = data.draw(st.lists(st.floats(-2, 12), min_size=units, max_size=units))
    first, second = space.repaired(anything, priority), space.rounded(wishes, priority)
    found = [first, second, space.uniform(priority), space.mutated(first, 3, random, priority)]
    found.append(space.crossed(first, second, random, priority))
    for levels in found:
        assert space.holds(levels), levels


@given(problems(alike=True), st.data())
def test_units_of_one_size_meet_the_budget_exactly(problem, data):
    space, priority, random = problem
    total = data.draw(st.integers(space.low * len(space.costs), space.high * len(space.costs)))
    space = Space(space.costs, space.low, space.high, total * space.costs[0])
    levels = space.uniform(priority)
    for _ in range(5):
        assert sum(levels) == total
        levels = space.crossed(space.mutated(levels, 2, random, priority), levels, random, priority)


@given(problems(), st.integers(1, 40), st.sampled_from(["rank", "log"]), st.booleans())
def test_the_first_population_is_in_the_space_and_begins_with_uniform(problem, size, scale, known):
    space, sensitivity, random = problem
    found = first_population(space, sensitivity if known else None, size, 2, random, scale)
    assert all(space.holds(levels) for levels in found)
    assert len(set(found)) == len(found) <= size
    assert found[0] == space.uniform(sensitivity if known else [0.0] * len(sensitivity))


@pytest.mark.parametrize("scale", ["rank", "log"])
def test_sensitive_units_begin_with_more(scale):
    space = Space((10,) * 6, 1, 4, 2 * 60)
    sensitivity = [1e6, 1e3, 1.0, 1e-3, 1e5, 1e-6]
    order = sorted(range(6), key=lambda unit: -sensitivity[unit])
    uniform, steepest = first_population(space, sensitivity, 2, 2, Random(0), scale)
    assert uniform == (2,) * 6
    assert [steepest[unit] for unit in order] == sorted(steepest, reverse=True)
    assert steepest[order[0]] > 2 > steepest[order[-1]]


def test_what_is_beyond_the_budget_falls_where_priority_is_low():
    space = Space((1, 1, 1, 1), 0, 4, 8)
    assert space.repaired((4, 4, 4, 4), [4, 3, 2, 1]) == (2, 2, 2, 2)
    assert space.repaired((4, 4, 1, 1), [4, 3, 2, 1]) == (4, 4, 0, 0)
    assert space.repaired((0, 0, 0, 0), [4, 3, 2, 1]) == (2, 2, 2, 2)
    assert space.repaired((3, 3, 1, 0), [4, 3, 2, 1]) == (4, 3, 1, 0)


def test_a_stretch_comes_from_the_other_parent():
    space = Space((1,) * 6, 0, 9, 27)
    first, second = (4, 5, 4, 5, 4, 5), (5, 4, 5, 4, 5, 4)
    children = {space.crossed(first, second, Random(seed), [0.0] * 6) for seed in range(50)}
    assert len(children) > 5
    assert all(space.holds(child) for child in children)


@pytest.mark.parametrize(
    ("costs", "low", "high", "budget"),
    [((), 0, 1, 0), ((0, 1), 0, 1, 5), ((1,), 2, 1, 5), ((3, 3), 2, 4, 11)],
)
def test_an_impossible_space_is_refused(costs, low, high, budget):
    with pytest.raises(ValueError, match=r"a search needs|above the budget"):
        Space(costs, low, high, budget)
