"""Progress for people: bars with time left on a terminal, otherwise one plain line per block."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .events import Event
from .structured.parts import UNITS


def progress_for(console: Console | None = None) -> Bars | Lines:
    """Bars if standard error is a terminal, plain lines otherwise. Both are listeners and context managers."""
    console = console or Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines()


class Lines:
    """One line per phase, block and warning on standard error."""

    def __init__(self) -> None:
        self._start, self._before = time.time(), 0

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.kind == "phase":
            self._start = event.time
            self._print(data["name"])
        elif event.kind in ("gradients", "sensitivity"):
            self._start = event.time
            self._print(f"{event.kind} {data['sequence']}/{data['sequences']}")
        elif event.kind == "errors":
            self._start = event.time
            self._print(f"errors of block {data['block'] + 1}/{data['blocks']}")
        elif event.kind == "similarity":
            self._start = event.time
            self._print(f"similarity of block {data['block'] + 1}/{data['blocks']}  {data['cosine']:.4f}")
        elif event.kind == "note":
            self._print(data["message"])
        elif event.kind == "search":
            where = f"round {data['round'] + 1}/{data['rounds']} generation {data['generation']}/{data['generations']}"
            self._start = event.time
            self._print(f"{where}  {_search_summary(data)}")
        elif event.kind == "round":
            self._start = event.time
            self._print(_round_summary(data))
        elif event.kind == "resumed":
            self._start, self._before = event.time, data["blocks_done"]
            self._print(f"going on after block {data['blocks_done']}/{data['blocks']}")
        elif event.kind == "block":
            done = data["block"] + 1
            left = (event.time - self._start) / (done - self._before) * (data["blocks"] - done)
            self._print(f"block {done}/{data['blocks']}  {_summary(data)}  about {left:.0f} s left")
        elif event.kind == "warning":
            self._print(f"warning: {data['message']}")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


class Bars:
    """Rich bars with the time left, for the calibration batches and for the blocks."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.kind == "phase":
            self._progress.console.print(f"[dim]{data['name']}[/dim]")
        elif event.kind == "calibration":
            self._update("capture", data["batch"], data["batches"], "")
        elif event.kind in ("gradients", "sensitivity"):
            self._update(event.kind, data["sequence"], data["sequences"], "")
        elif event.kind == "errors":
            self._update("errors", data["block"] + 1, data["blocks"], "")
        elif event.kind == "similarity":
            self._update("similarity", data["block"] + 1, data["blocks"], f"{data['cosine']:.4f}")
        elif event.kind == "note":
            self._progress.console.print(escape(data["message"]), highlight=False)
        elif event.kind == "search":
            per_round = data["generations"] + 1
            done = data["round"] * per_round + data["generation"] + 1
            self._update("search", done, data["rounds"] * per_round, _search_summary(data))
        elif event.kind == "round":
            self._progress.console.print(_round_summary(data), highlight=False)
        elif event.kind == "resumed":
            self._update("blocks", data["blocks_done"], data["blocks"], "")
        elif event.kind == "block":
            self._update("blocks", data["block"] + 1, data["blocks"], _summary(data))
        elif event.kind == "warning":
            self._progress.console.print(f"[yellow]warning:[/yellow] {escape(data['message'])}", highlight=False)

    def _update(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, note=note)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()


def _summary(data: dict[str, Any]) -> str:
    text = f"{data['seconds']:.1f} s"
    if data.get("parts"):
        kept = "  ".join(f"{part['kept']} of {part['units']} {UNITS[part['kind']]}" for part in data["parts"])
        return f"{text}  {kept}"
    if data.get("quality") is None:
        return text
    return f"{text}  quality {data['baseline_quality']:.4f} -> {data['quality']:.4f}"


def _search_summary(data: dict[str, Any]) -> str:
    return f"{data['fitness']} {data['best']:.4f}, uniform {data['uniform']:.4f}  {data['seconds']:.1f} s"


def _round_summary(data: dict[str, Any]) -> str:
    return f"round {data['round'] + 1}/{data['rounds']}  {data['fitness']} {data['loss']:.4f} by masks of its own"
