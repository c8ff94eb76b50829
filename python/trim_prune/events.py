"""What happens during a run, told to whoever listens: bars, plain lines, a log file, a caller's function."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "start",
    "phase",
    "plan",
    "note",
    "calibration",
    "gradients",
    "sensitivity",
    "errors",
    "similarity",
    "search",
    "round",
    "resumed",
    "block_start",
    "linear",
    "block",
    "save",
    "warning",
    "finish",
]


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``data`` holds plain values (JSON)."""

    kind: Kind
    data: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


Listener = Callable[[Event], None]


class Events:
    """Hands each event to every listener, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)
        self.warnings: list[str] = []

    def emit(self, kind: Kind, **data: Any) -> None:
        """Tell the listeners."""
        event = Event(kind, data)
        for listener in self.listeners:
            listener(event)

    def warn(self, message: str) -> None:
        """Tell the listeners of a warning and remember it for run.json."""
        self.warnings.append(message)
        self.emit("warning", message=message)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: an infinite quality (nothing was lost) or NaN becomes null, which every parser takes."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def append_line(file: io.FileIO, text: str) -> int:
    """Write a whole line at once, and return its length.

    Raises:
        OSError: the line, or the end of it, could not be written.
    """
    line = text.encode() + b"\n"
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return len(line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class EventLog:
    """Appends one JSON object a line to a file; a last line that a crash cut short goes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def __call__(self, event: Event) -> None:
        append_line(self._file, to_json({"time": event.time, "event": event.kind, **event.data}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
