"""A file of figures in a few lines, as Markdown: python -m benchmarks.summary FILE.json [--rows 5120 --columns 5120].

For each operation and backend that was measured: on how many shapes, the time at one of them, the share of the floor
and how many times faster than plain torch that is, and the least of these shares and ratios over all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HEADINGS = (
    "operation",
    "backend",
    "shapes",
    "ms",
    "of floor",
    "times plain torch",
    "least of floor",
    "least times plain torch",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description="A file of figures in short.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=5120, help="of the shape whose time is told; tokens are 2048")
    parser.add_argument("--columns", type=int, default=5120)
    options = parser.parse_args(arguments)
    figures = json.loads(options.file.read_text(encoding="utf-8"))["figures"]
    print("\n".join(summary(figures, options.rows, options.columns)))


def summary(figures: Iterable[dict[str, Any]], rows: int, columns: int) -> list[str]:
    """The lines; operations in the order in which they were measured."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figure in figures:
        if figure["backend"] != "reference":
            name = f"`{figure['op']}` {figure['variant']}".strip()
            groups.setdefault((name, figure["backend"]), []).append(figure)
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    for (name, backend), members in groups.items():
        at = next((f for f in members if f["columns"] == columns and f["rows"] in (rows, 2048)), None)
        cells = [name, backend, str(len(members)), *(_told(at) if at else ("",) * 3), *_least(members)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _told(figure: dict[str, Any]) -> tuple[str, str, str]:
    return f"{figure['milliseconds']:.3g}", f"{figure['percent_of_floor']:.0f}%", _times(figure["times_baseline"])


def _least(figures: Sequence[dict[str, Any]]) -> tuple[str, str]:
    lowest = min(figures, key=lambda figure: figure["percent_of_floor"])
    compared = [figure for figure in figures if figure["times_baseline"] is not None]
    slowest = min(compared, key=lambda figure: figure["times_baseline"], default=None)
    return (
        f"{lowest['percent_of_floor']:.0f}% ({_shape(lowest)})",
        "" if slowest is None else f"{_times(slowest['times_baseline'])} ({_shape(slowest)})",
    )


def _shape(figure: dict[str, Any]) -> str:
    return f"{figure['rows']} x {figure['columns']}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g}"


if __name__ == "__main__":
    main()
