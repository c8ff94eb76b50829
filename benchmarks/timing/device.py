"""Device times of calls on a GPU, with a cold L2 cache.

One round calls the operation once on each of several copies of its arguments, which together are at least five times
as large as the L2 cache; a figure is the round's time over the number of copies. All results of a round stay alive, so
that each is written to memory of its own. A round begins and ends with the caches full of its own kind of data: what an
earlier round left to be written back is paid for by the next, as in a long run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.timing.work import Times, Work, summarize

LONG = 0.01
"""Seconds from which a call needs no rotation: filling the cache takes some hundredths of a millisecond."""
ROUNDS = (5, 200)
SPIN = 200_000
"""Cycles for which the device is kept busy while the host submits a round: about 0.1 ms."""


@dataclass(frozen=True)
class Measured:
    """The times, and what the last timed round returned on its last copy."""

    times: Times
    result: object


def measure(work: Work, budget: float) -> Measured:
    """Times of a work after a warm-up, for about ``budget`` seconds.

    The calls are captured as a CUDA graph if none of them waits for the device.
    """
    _restore(work)
    work.calls[0]()  # compiles, loads and fills torch's memory pool
    once = _round(work, [work.calls[0]])
    if once > LONG:
        work = replace(work, calls=work.calls[:1])
    graph = None if once > LONG or work.waits else _capture(work)
    calls: Sequence[Callable[[], object]] = work.calls if graph is None else [graph.graph.replay]
    results: list[object] = []
    estimate = _round(work, calls, results)
    rounds = _rounds(estimate, budget)
    seconds = [_round(work, calls, results) / len(work.calls) for _ in range(rounds)]
    times = summarize(seconds, "events" if graph is None else "graph")
    return Measured(times, (results if graph is None else graph.results)[-1])


def _rounds(estimate: float, budget: float) -> int:
    """So many rounds as the budget allows; a single one if a few would take much longer."""
    fewest, most = ROUNDS
    if fewest * estimate > 4 * budget:
        return 1
    return max(fewest, min(most, int(budget / estimate)))


def _round(work: Work, calls: Sequence[Callable[[], object]], results: list[object] | None = None) -> float:
    """Seconds of one round on the device; restores the copies before it, outside the events."""
    _restore(work)
    if results is not None:
        results.clear()  # its memory is that of the results to come
    start, end = _event(), _event()
    torch.cuda._sleep(SPIN)  # type: ignore[no-untyped-call]
    start.record()
    returned = [call() for call in calls]
    end.record()
    end.synchronize()
    if results is not None:
        results += returned
    return float(start.elapsed_time(end)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _restore(work: Work) -> None:
    if work.restore is not None:
        work.restore()


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    results: list[object]


def _capture(work: Work) -> _Captured | None:
    """One round as a CUDA graph; None if a call cannot be captured."""
    if _waits(work.calls[0]):
        return None
    graph = torch.cuda.CUDAGraph()
    stream, own = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    try:
        with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
            results = [call() for call in work.calls]
    except RuntimeError:
        # torch leaves its capture stream in use when a capture fails.
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        return None
    return _Captured(graph, results)


def _waits(call: Callable[[], object]) -> bool:
    """Whether torch has to wait for the device during the call. A capture that fails is not tried needlessly."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False
