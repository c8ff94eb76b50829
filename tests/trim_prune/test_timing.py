from __future__ import annotations

import pytest

from trim_prune import timing
from trim_prune.timing import Timings


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_a_phase_inside_another_counts_for_itself_only(clock):
    timings = Timings()
    with timings.phase("forward"):
        clock(2)
        for _ in range(3):
            with timings.phase("statistics"):
                clock(5)
        clock(1)
    assert timings.seconds == {"statistics": 15, "forward": 3}


def test_a_phase_that_fails_is_counted(clock):
    timings = Timings()

    def fail():
        with timings.phase("search"):
            clock(4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert timings.seconds == {"search": 4}
