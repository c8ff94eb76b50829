from __future__ import annotations

import pytest
import torch

from trim_prune import memory, timing
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


def test_an_outer_phase_on_a_gpu_waits_for_what_was_begun_in_it(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: clock(7 if timings.seconds else 1))
    timings = Timings(torch.device("cuda"))
    with timings.phase("forward"), timings.phase("statistics"):
        clock(2)
    assert timings.seconds == {"statistics": 2, "forward": 7}


@pytest.fixture
def heights(monkeypatch):
    """Peaks that are set by hand; a peak only rises."""
    now = {"process": 10}
    monkeypatch.setattr(memory, "peaks", lambda: dict(now))

    def rise(**places):
        now.update(places)

    return rise


def test_a_phase_that_raises_a_peak_has_its_height(heights):
    timings = Timings()
    heights(process=11)
    with timings.phase("load"):
        heights(process=20)
    with timings.phase("plan"):
        pass
    heights(process=25)
    with timings.phase("forward"):
        heights(process=26)
        with timings.phase("statistics"):
            heights(process=30, gpu=4)
    with timings.phase("load"):
        heights(process=31)
    assert timings.memory.by_phase == {"load": {"process": 31}, "forward": {"process": 30, "gpu": 4}}
    assert timings.memory.peak == {"process": 31, "gpu": 4}


def test_the_peak_of_the_process_is_in_bytes():
    block = bytearray(64 << 20)
    assert memory.peaks()["process"] > len(block)
