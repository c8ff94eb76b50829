"""Wall-clock times of calls on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from benchmarks.timing.work import Times, Work, summarize

PAUSE = 0.01
BURST = 0.05


def measure(works: Mapping[str, Work], budget: float) -> dict[str, Times]:
    """Times of each work, warm. All take turns in bursts, as long as the budget of seconds lasts.

    Turns, so that whatever else the machine does falls on all alike. Bursts after a pause, and without their first
    call, so that each is measured as its own neighbour: OpenMP workers of a torch call spin for milliseconds after it
    and would take a core from whatever comes next.
    """
    length = {name: _seconds(work) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    while not times[next(iter(works))] or time.perf_counter() - start < budget:
        for name, work in works.items():
            time.sleep(PAUSE)
            if length[name] < BURST:
                _seconds(work)
            repeats = max(1, int(BURST / length[name]))
            times[name] += [_seconds(work) for _ in range(repeats)]
    return {name: summarize(values, "wall") for name, values in times.items()}


def seconds(call: Callable[[], object], budget: float) -> float:
    """Median seconds of one call."""
    return measure({"call": Work([call])}, budget)["call"].median


def _seconds(work: Work) -> float:
    if work.restore is not None:
        work.restore()
    start = time.perf_counter()
    work.calls[0]()
    return time.perf_counter() - start
