from __future__ import annotations

import pytest

from trim_prune import TrimPruneError
from trim_prune.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("score")
    registry.register("wanda", 1)
    registry.register("magnitude", 2)
    return registry


def test_an_entry_is_found_by_its_name(registry):
    assert registry.get("wanda") == 1
    assert registry.names() == ["magnitude", "wanda"]


def test_a_name_that_is_taken_is_refused_and_keeps_its_entry(registry):
    with pytest.raises(TrimPruneError, match="score 'wanda' is registered already"):
        registry.register("wanda", 3)
    assert registry.get("wanda") == 1


def test_an_unknown_name_lists_the_known_and_suggests_the_nearest(registry):
    with pytest.raises(TrimPruneError) as error:
        registry.get("wanad")
    assert error.value.what == "unknown score 'wanad'"
    assert error.value.expected == "one of magnitude, wanda"
    assert error.value.fix == "did you mean 'wanda'?"


def test_nothing_is_suggested_for_what_is_like_nothing(registry):
    with pytest.raises(TrimPruneError) as error:
        registry.get("xxxxxx")
    assert error.value.fix is None
