"""One rank of benchmarks.ranks, started by torchrun: a prune, and the bytes that arrived here on the way.

Arguments: the model's folder, a text file, the recipe as JSON, a JSON file that the first rank writes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trim_prune import prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.team import Team, open_team

PROBE = 4 << 20
"""Bytes whose way from each rank to all others tells the bandwidth."""


class Counter:
    """Counts the bytes that arrive at this rank, by the names of the calls that bring them."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def watch(self) -> None:
        """From now on."""
        for name, arriving in ARRIVING.items():
            setattr(dist, name, self._counted(name, getattr(dist, name), arriving))

    def _counted(self, name: str, real: Callable[..., Any], arriving: Callable[..., int]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.bytes[name] = self.bytes.get(name, 0) + arriving(*args, **kwargs)
            return real(*args, **kwargs)

        return call


ARRIVING: dict[str, Callable[..., int]] = {
    "broadcast": lambda got, **named: 0 if named["group"].rank() == named["group_src"] else len(got),
    "all_to_all_single": lambda got, _sent, arriving, *_, **named: len(got) - arriving[named["group"].rank()],
    "recv": lambda got, **_: len(got),
}


def main(folder: str, text: str, recipe: str, file: str) -> None:
    """Prune, and tell."""
    torch.set_num_threads(1)
    quiet_libraries()
    counter = Counter()
    counter.watch()
    result = prune(folder, json.loads(recipe), text)
    moved = dict(counter.bytes)
    with open_team("cpu") as team:
        told = team.exchange(moved)
        bandwidth = _bandwidth(team)
        if team.first:
            seconds = {phase: round(time, 3) for phase, time in result.timings.items()}
            facts = {"seconds": seconds, "bytes": told, "bytes_per_second": bandwidth}
            Path(file).write_text(json.dumps(facts), encoding="utf-8")


def _bandwidth(team: Team) -> float | None:
    """Bytes per second that arrive at all ranks together while each sends some to all others; None for one alone."""
    if team.size == 1:
        return None
    times = []
    for _ in range(5):
        team.exchange(None)
        start = time.perf_counter()
        team.everyones([torch.zeros(PROBE, dtype=torch.uint8)])
        times.append(time.perf_counter() - start)
    return team.size * (team.size - 1) * PROBE / sorted(times)[2]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
