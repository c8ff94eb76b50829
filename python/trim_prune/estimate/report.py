"""A forecast as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .plan import Forecast, Pruning
from .structured import Shrinking

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
PLACES = {"host": "memory", "gpu": "GPU memory"}
WAIT = {"device": "on the device", "memory": "in memory", "file": "in files"}


def print_forecast(console: Console, forecast: Forecast) -> None:
    """What goes, where the bytes are at the highest moment, and how long it takes."""
    for line in _head(forecast):
        console.print(escape(line), soft_wrap=True, highlight=False)
    if forecast.pruning is not None:
        console.print(_counts(forecast.pruning))
    elif forecast.shrinking is not None and forecast.shrinking.sizes:
        console.print(_sizes(forecast.shrinking))
    for place, moment in forecast.peaks.items():
        parts = dict(moment.parts)
        if place == "host":
            parts["Python and libraries"] = forecast.interpreter
        console.print(_bytes(f"peak {PLACES[place]}, in phase {moment.name!r}", parts))
    console.print(_bytes("disk", forecast.disk))
    if forecast.seconds:
        table = Table("estimated time", "seconds", box=None, pad_edge=False)
        for phase, seconds in (*forecast.seconds.items(), ("together", sum(forecast.seconds.values()))):
            table.add_row(phase, f"{seconds:.1f}")
        console.print(table)
    for note in forecast.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True, highlight=False)


def _head(forecast: Forecast) -> list[str]:
    lines = [f"{forecast.model}: {forecast.architecture}, on {forecast.device}"]
    if forecast.pruning is not None:
        pruned, weights = forecast.pruning.pruned, forecast.pruning.weights
        lines.append(f"{pruned} of {weights} weights go ({pruned / weights:.4%}); {forecast.pruning.split}")
    if forecast.shrinking is not None:
        found = forecast.shrinking
        aim = "exactly" if found.left_open is None else f"within a channel; {found.left_open}"
        verb = "are not zero" if found.mode == "masked" else "stay"
        share = found.stay / found.parameters
        lines.append(f"{found.stay} of {found.parameters} parameters {verb} ({share:.4%}), {aim}")
        lines.append(f"mode {found.mode}: {found.loads}")
    if forecast.sequences:
        lines.append(
            f"{forecast.sequences} sequences of {forecast.tokens} tokens, {forecast.batch_size} at once; hidden states "
            f"wait {WAIT[forecast.hidden_states]}"
        )
    return lines


def _counts(pruning: Pruning) -> Table:
    """Blocks that are alike stand in one line."""
    table = Table("block", "weights", "go", box=None, pad_edge=False)
    rows = []
    for block in pruning.blocks:
        rows.append((block.name, (str(block.weights), "?" if block.pruned is None else str(block.pruned))))
    for names, cells in _alike(rows):
        table.add_row(escape(names), *cells)
    return table


def _sizes(shrinking: Shrinking) -> Table:
    kinds = list(next(iter(shrinking.sizes.values())))
    table = Table("block", *kinds, box=None, pad_edge=False)
    rows = [
        (name, tuple(f"{kept} of {whole}" for kept, whole in parts.values())) for name, parts in shrinking.sizes.items()
    ]
    for names, cells in _alike(rows):
        table.add_row(escape(names), *cells)
    return table


def _alike(rows: Iterable[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """Rows that follow one another and are alike, as one: of names, the first and the last."""
    runs: list[tuple[list[str], tuple[str, ...]]] = []
    for name, cells in rows:
        if runs and runs[-1][1] == cells:
            runs[-1][0].append(name)
        else:
            runs.append(([name], cells))
    return [(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, each", cells) for names, cells in runs]


def _bytes(heading: str, parts: Mapping[str, int]) -> Table:
    table = Table(heading, "size", box=None, pad_edge=False)
    for name, size in (*parts.items(), ("together", sum(parts.values()))):
        if size or name == "together":
            table.add_row(escape(name), in_units(size))
    return table


def in_units(size: float) -> str:
    """A number of bytes for people."""
    step = 0
    while size >= 1024 and step < len(UNITS) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.0f} {UNITS[step]}" if step == 0 else f"{size:.2f} {UNITS[step]}"
