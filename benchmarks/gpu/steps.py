"""Runs commands one after another, each within a time of its own, all within a time together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PASSED, FAILED, STOPPED, SKIPPED = "passed", "failed", "stopped", "skipped"
GRACE = 5.0
"""Seconds between asking a command to end and ending it."""
LEAST = 5.0
"""Seconds below which a step is not worth starting."""


@dataclass(frozen=True)
class Result:
    """What became of a step; ``summary`` is a line of its output, or why it did not run."""

    name: str
    status: str
    seconds: float
    summary: str


@dataclass(frozen=True)
class Step:
    """A command and the seconds that it may take."""

    name: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    obstacle: Callable[[], str | None] = lambda: None
    """Says, when its turn has come, why the step cannot run."""
    refused: str | None = None
    """A text in the output that means: the tool does not work here."""


def run_steps(steps: Iterable[Step], seconds: float, log: Path) -> Iterator[Result]:
    """The result of each step as soon as it is over. ``seconds`` is for all of them together, and so is ``log``."""
    deadline = time.monotonic() + seconds
    for step in steps:
        left = deadline - time.monotonic()
        why = f"no time left ({max(0, left):.0f} s)" if left < LEAST else step.obstacle()
        yield Result(step.name, SKIPPED, 0.0, why) if why else _run(step, min(step.seconds, left), log)


def _run(step: Step, seconds: float, log: Path) -> Result:
    heading = f"\n=== {step.name}: at most {seconds:.0f} s\n{' '.join(step.command)}\n"
    print(heading, end="", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(heading)
    start = time.monotonic()
    tail: deque[str] = deque(maxlen=400)
    try:
        process = subprocess.Popen(
            step.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **step.environment},
            process_group=0,  # so that the command ends with all that it has started
        )
    except OSError as error:
        return Result(step.name, FAILED, 0.0, str(error))
    reader = threading.Thread(target=_copy, args=(process, log, tail), daemon=True)
    reader.start()
    try:
        code = process.wait(max(0.1, seconds - GRACE))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end(process)
        reader.join(GRACE)
    return Result(step.name, _status(step, code, tail), time.monotonic() - start, _last_line(tail))


def _copy(process: subprocess.Popen[str], log: Path, tail: deque[str]) -> None:
    """Write the output to the terminal and to a file, and keep the end."""
    assert process.stdout is not None
    with process.stdout, log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
            tail.append(line)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask first: pytest then says how far it came."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def _status(step: Step, code: int | None, tail: Iterable[str]) -> str:
    if step.refused is not None and any(step.refused in line for line in tail):
        return SKIPPED
    if code is None:
        return STOPPED
    return PASSED if code == 0 else FAILED


def _last_line(tail: Iterable[str]) -> str:
    return next((line.strip() for line in reversed(list(tail)) if line.strip()), "no output")
