"""Checks and times every implementation of a case on one matrix."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.figures import Figure, Missing
from benchmarks.limits import Limits
from benchmarks.problems import Problem
from benchmarks.shapes import Linear
from benchmarks.timing import device as device_timing
from benchmarks.timing import wall
from benchmarks.timing.rotation import rotation_count
from benchmarks.timing.work import Times, Work

BASELINE, REFERENCE = "baseline", "reference"
BACKENDS = {"cpu": ("cpu", REFERENCE), "cuda": ("cuda", "triton", REFERENCE)}

Call = Callable[[Any], object]
"""Runs one implementation on a problem."""


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure; ``budget`` is in seconds, of a case on a CPU, of an implementation on a GPU."""

    device: str
    dtype: torch.dtype
    limits: Limits
    budget: float

    @property
    def kind(self) -> str:
        """Either "cpu" or "cuda"."""
        return torch.device(self.device).type

    @property
    def dtype_name(self) -> str:
        """As in a figure, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")


def measure(case: Case[Any], linear: Linear, bench: Bench) -> Iterator[Figure | Missing]:
    """The figure of each backend as soon as it is known, and what has none."""
    about = _About(case, linear, bench)
    try:
        problem = case.problem(linear, bench.dtype, bench.device)
        expected = case.run(problem.copy(), REFERENCE)
    except Exception as error:  # without a reference there is nothing to compare with
        yield about.missing(REFERENCE, error)
        return
    passed: dict[str, Call] = {}
    peaks: dict[str, int | None] = {}
    for name, call in _implementations(case, bench).items():
        try:
            peaks[name] = _check(case, name, call, problem, expected, bench)
            passed[name] = call
        except Exception as error:  # what cannot run here is told, and the others are measured
            yield about.missing(name, error)
    times: dict[str, Times] = {}
    for name, found in (_on_gpu if bench.kind == "cuda" else _on_cpu)(case, passed, problem, expected, bench):
        if isinstance(found, Exception):
            yield about.missing(name, found)
            continue
        times[name] = found
        if name != BASELINE:
            yield about.figure(name, problem, times, peaks[name])


def _implementations(case: Case[Any], bench: Bench) -> dict[str, Call]:
    """Baseline and reference first: the figures of the others name them."""
    backends = sorted(BACKENDS[bench.kind], key=lambda name: name != REFERENCE)
    calls: dict[str, Call] = {name: _on_backend(case, name) for name in backends}
    return calls if case.baseline is None else {BASELINE: case.baseline, **calls}


def _on_backend(case: Case[Any], backend: str) -> Call:
    return lambda problem: case.run(problem, backend)


def _check(case: Case[Any], name: str, call: Call, problem: Problem, expected: object, bench: Bench) -> int | None:
    """Raise AssertionError for a wrong result; the memory that the call takes on a GPU, its result included."""
    own = problem.copy()
    if bench.kind != "cuda":
        case.check_of(name)(call(own), expected)
        return _peak_on_cpu(case, name, own)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call(own)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    case.check_of(name)(result, expected)
    return peak


def _peak_on_cpu(case: Case[Any], backend: str, problem: Any) -> int | None:
    if case.name != "allocate_rows exact" or backend == BASELINE:
        return None
    rows, columns = problem.weight.shape
    command = [sys.executable, "-m", "benchmarks.peak_memory", str(rows), str(columns), backend]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _on_cpu(
    case: Case[Any], calls: Mapping[str, Call], problem: Problem, _: object, bench: Bench
) -> Iterator[tuple[str, Times | Exception]]:
    own = problem.copy()
    restore = functools.partial(own.restore, problem) if case.in_place else None
    works = {name: Work([functools.partial(call, own)], restore) for name, call in calls.items()}
    yield from wall.measure(works, bench.budget).items()


def _on_gpu(
    case: Case[Any], calls: Mapping[str, Call], problem: Problem, expected: object, bench: Bench
) -> Iterator[tuple[str, Times | Exception]]:
    """What was timed is checked once more: a graph might have left out some of the work."""
    cache = torch.cuda.get_device_properties(bench.device).L2_cache_size
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(bench.device)
    output = 0 if case.in_place else _nbytes(expected)
    count = rotation_count(problem.touched(), problem.nbytes() + output, cache, free)
    copies = [problem.copy() for _ in range(count)]

    def restore() -> None:
        for copy in copies:
            copy.restore(problem)

    for name, call in calls.items():
        rotating = [functools.partial(call, copy) for copy in copies]
        work = Work(rotating, restore if case.in_place else None, case.waits)
        try:
            measured = device_timing.measure(work, bench.budget)
            case.check_of(name)(measured.result, expected)
            yield name, measured.times
        except Exception as error:
            yield name, error


def _nbytes(result: object) -> int:
    if isinstance(result, Tensor):
        return result.numel() * result.element_size()
    return sum(map(_nbytes, result)) if isinstance(result, tuple) else 0


@dataclass(frozen=True)
class _About:
    """Says what a figure is of."""

    case: Case[Any]
    linear: Linear
    bench: Bench

    def missing(self, implementation: str, error: Exception) -> Missing:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Missing(**self._key(implementation), why=why, wrong=isinstance(error, AssertionError))

    def figure(self, backend: str, problem: Problem, times: Mapping[str, Times], peak: int | None) -> Figure:
        seconds = times[backend].median
        bytes_moved, operations = self.case.bytes_moved(problem), self.case.operations(problem)
        limits = self.bench.limits
        floor = limits.seconds(bytes_moved=bytes_moved, operations=operations)
        in_bytes = floor == limits.seconds(bytes_moved=bytes_moved, operations=0)
        return Figure(
            **self._key(backend),
            milliseconds=seconds * 1e3,
            milliseconds_20=times[backend].low * 1e3,
            milliseconds_80=times[backend].high * 1e3,
            rounds=times[backend].rounds,
            timing=times[backend].method,
            gigabytes_per_second=bytes_moved / seconds / 1e9 if in_bytes else None,
            teraflops=None if in_bytes else operations / seconds / 1e12,
            floor_milliseconds=floor * 1e3,
            percent_of_floor=100 * floor / seconds,
            times_reference=_ratio(times, REFERENCE, seconds),
            times_baseline=_ratio(times, BASELINE, seconds),
            baseline=self.case.baseline_name,
            peak_bytes=peak,
        )

    def _key(self, backend: str) -> dict[str, Any]:
        return {
            "op": self.case.op,
            "variant": self.case.variant,
            "backend": backend,
            "linear": self.linear.name,
            "rows": self.linear.rows,
            "columns": self.linear.columns,
            "dtype": self.bench.dtype_name,
        }


def _ratio(times: Mapping[str, Times], other: str, seconds: float) -> float | None:
    return times[other].median / seconds if other in times else None
