"""SVG figures whose colours are those of the page, light or dark. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#010101", "#010102"
LINES = tuple(f"#01020{digit}" for digit in range(8))
"""Colours that no figure has otherwise: each stands for one that the page names, see ``_THEME``."""
_THEME = {INK: "currentColor", GRID: "var(--grid)"} | {line: f"var(--line-{n})" for n, line in enumerate(LINES)}
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.5, 1.5)))
WIDTH, HEIGHT = 4.0, 2.7
"""Inches: 384 pixels, so that the letters are as large on a phone as on a desk."""


def draw(name: str, plot: Callable[[Axes], None], *, height: float = HEIGHT) -> str:
    """An SVG element of one plot. ``name``: of the figure, unique in its page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    style: Any = {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "axes.prop_cycle": cycler("color", LINES),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 9,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.4,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_facecolor("none")
        plot(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
    return _themed(text.getvalue(), name)


def legend(axes: Axes) -> None:
    """Below the plot, in as many columns as the longest label leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), 56 // (max(map(len, labels)) + 5)))
    assert axes.figure is not None
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=1.8)


def block_axis(axes: Axes) -> None:
    """Whole blocks along the bottom."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="y")


def line_styles(count: int) -> Sequence[dict[str, Any]]:
    """Colours, and then dashes, that tell some lines apart."""
    return [{"color": LINES[n % len(LINES)], "linestyle": DASHES[n // len(LINES) % len(DASHES)]} for n in range(count)]


def _themed(svg: str, name: str) -> str:
    """The bare element: its colours the page's, its names unlike those of the other figures in it."""
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    for color, themed in _THEME.items():
        svg = svg.replace(color, themed)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
