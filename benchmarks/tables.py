"""Plain tables on the terminal: a machine with a GPU may have nothing but torch."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Figure

HEADINGS = (
    "linear",
    "rows",
    "columns",
    "backend",
    "ms",
    "20%",
    "80%",
    "timing",
    "rate",
    "floor ms",
    "of floor",
    "x reference",
    "x baseline",
    "peak MB",
)


def table(figures: Sequence[Figure]) -> str:
    """One line a figure."""
    return columns([HEADINGS, *(_cells(figure) for figure in figures)])


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Cells under each other: the first column to the left, the others to the right."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *aligned[1:]])


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.linear,
        str(figure.rows),
        str(figure.columns),
        figure.backend,
        f"{figure.milliseconds:.4g}",
        f"{figure.milliseconds_20:.4g}",
        f"{figure.milliseconds_80:.4g}",
        figure.timing,
        _rate(figure),
        f"{figure.floor_milliseconds:.4g}",
        f"{figure.percent_of_floor:.1f}%",
        _or_dash(figure.times_reference),
        _or_dash(figure.times_baseline),
        _or_dash(None if figure.peak_bytes is None else figure.peak_bytes / 1e6),
    )


def _rate(figure: Figure) -> str:
    if figure.teraflops is None:
        return f"{figure.gigabytes_per_second:.4g} GB/s"
    return f"{figure.teraflops:.1f} TFLOP/s" if figure.teraflops >= 1 else f"{1e3 * figure.teraflops:.1f} GFLOP/s"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
