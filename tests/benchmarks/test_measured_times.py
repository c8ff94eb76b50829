"""Quantiles, rotation, and what is inside and outside of the timed part."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from benchmarks.limits import Limits
from benchmarks.timing import device, wall
from benchmarks.timing.rotation import rotation_count
from benchmarks.timing.work import Work, summarize

MEBIBYTE = 1 << 20


def test_quantiles_are_those_of_the_sorted_values():
    times = summarize([5.0, 1.0, 3.0, 2.0, 4.0, 6.0], "events")
    assert (times.low, times.median, times.high) == (2.0, 3.5, 5.0)
    assert (times.rounds, times.method) == (6, "events")


def test_a_single_measurement_is_all_its_quantiles():
    times = summarize([0.25], "wall")
    assert (times.low, times.median, times.high, times.rounds) == (0.25, 0.25, 0.25, 1)


@pytest.mark.parametrize(
    ("touched", "copy", "free", "count"),
    [
        (52 * MEBIBYTE, 53 * MEBIBYTE, 1 << 37, 6),  # 5 x 60 MiB of cache
        (10 * MEBIBYTE, 11 * MEBIBYTE, 1 << 37, 30),
        (1 << 30, 1 << 30, 1 << 37, 2),  # larger than the cache, and yet two
        (1 << 30, 2 << 30, 4 << 30, 1),  # two would not fit with their results
        (1 << 34, 1 << 34, 1 << 30, 1),
    ],
)
def test_copies_together_exceed_the_cache_five_times_if_memory_allows(touched, copy, free, count):
    assert rotation_count(touched, copy, 60 * MEBIBYTE, free) == count


def test_the_floor_is_the_longer_of_moving_and_computing():
    limits = Limits(bytes_per_second=100.0, operations_per_second=1000.0)
    assert limits.seconds(bytes_moved=50.0, operations=100.0) == 0.5
    assert limits.seconds(bytes_moved=50.0, operations=2000.0) == 2.0


def test_on_a_cpu_every_call_finds_its_arguments_restored():
    state = {"fresh": False}
    seen = []

    def restore():
        state["fresh"] = True

    def call():
        seen.append(state["fresh"])
        state["fresh"] = False

    times = wall.measure({"in place": Work([call], restore)}, budget=0.0)
    assert all(seen)
    assert times["in place"].rounds == len(seen) - 2  # but for the first call, and the first of the burst


class FakeGpu:
    """A clock that calls move on, in place of torch.cuda."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.log = 0.0, seconds, []
        self.captures = self.waits = self.fails = False
        self.stream = "first"

    def call(self, name: str):
        def run() -> str:
            if self.waits and self.mode == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            if self.captures and self.fails:
                raise RuntimeError("operation not permitted when stream is capturing")
            if not self.captures:
                self.now += self.seconds
                self.log.append(name)
            return name

        return run

    def restore(self) -> None:
        self.now += 1000.0
        self.log.append("restore")

    def event(self):
        gpu = self

        class Event:
            def record(self) -> None:
                self.at = gpu.now
                gpu.log.append("event")

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end) -> float:
                return 1e3 * (end.at - self.at)

        return Event()

    def graph_class(self):
        gpu = self

        class Graph:
            def replay(self) -> None:
                gpu.now += gpu.seconds * len(gpu.captured)
                gpu.log.append("replay")

        return Graph

    @contextlib.contextmanager
    def capture(self, graph, *, stream, capture_error_mode):
        self.captures, self.stream = True, stream
        self.captured = range(3)
        try:
            yield
        finally:
            self.captures = False
        self.stream = "first"

    mode = "default"

    def install(self, monkeypatch) -> None:
        monkeypatch.setattr(device, "_event", self.event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "mode", mode))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.graph_class())
        monkeypatch.setattr(torch.cuda, "graph", self.capture)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: "own")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "stream", stream))


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu(0.001)
    fake.install(monkeypatch)
    return fake


def rotating(gpu: FakeGpu, restore=None) -> Work:
    return Work([gpu.call(name) for name in "abc"], restore)


def test_on_a_gpu_a_graph_of_all_copies_is_replayed(gpu):
    measured = device.measure(rotating(gpu), budget=0.03)
    assert measured.times.method == "graph"
    assert measured.times.median == pytest.approx(0.001)
    assert measured.times.rounds == 10
    assert measured.result == "c"
    assert gpu.log.count("replay") == 11  # one to find out how long a round is


def test_restoring_is_outside_of_the_events(gpu):
    measured = device.measure(rotating(gpu, gpu.restore), budget=0.03)
    assert measured.times.high == pytest.approx(0.001)
    rounds = "".join({"event": "|", "replay": "R", "restore": "-"}.get(entry, entry) for entry in gpu.log)
    assert rounds.endswith("-|R|" * 10)


def test_a_call_that_waits_for_the_device_is_timed_with_events(gpu):
    gpu.waits = True
    measured = device.measure(rotating(gpu), budget=0.03)
    assert measured.times.method == "events"
    assert measured.times.median == pytest.approx(0.001)
    assert "replay" not in gpu.log
    assert "".join(gpu.log[-5:]) == "eventabcevent"
    assert gpu.mode == "default"


def test_a_call_that_is_known_to_wait_is_not_captured(gpu):
    measured = device.measure(replace(rotating(gpu), waits=True), budget=0.03)
    assert measured.times.method == "events"
    assert not hasattr(gpu, "captured")


def test_a_capture_that_fails_leaves_the_stream_as_it_was(gpu):
    gpu.fails = True
    measured = device.measure(rotating(gpu), budget=0.03)
    assert measured.times.method == "events"
    assert gpu.stream == "first"


def test_long_calls_are_neither_rotated_nor_repeated_for_long(gpu):
    gpu.seconds = 2.0
    measured = device.measure(rotating(gpu), budget=0.1)
    assert measured.times.rounds == 1
    assert measured.times.median == pytest.approx(2.0)
    assert set(gpu.log) == {"a", "event"}


def test_an_error_of_the_call_itself_is_not_taken_for_waiting(gpu):
    def broken():
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        device._waits(broken)
    assert gpu.mode == "default"
