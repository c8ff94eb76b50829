"""The plots of a structured run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figures import LINES, block_axis, draw, legend
from .structured import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Mapping[int, float]


def kept_plot(derived: Mapping[str, Any]) -> str:
    """The share of its units that each part keeps, by block."""

    def plot(axes: Axes) -> None:
        for color, (kind, units) in zip(LINES, KINDS.items(), strict=False):
            _line(axes, shares(derived["blocks"], kind), color, units)
        axes.set_ylabel("units that stay, %")
        axes.set_ylim(-2.0, 104.0)
        block_axis(axes)
        legend(axes)

    return draw("kept", plot)


def repair_plot(derived: Mapping[str, Any]) -> str:
    """What the output of each part lacks, before and after the repair, by block."""

    def plot(axes: Axes) -> None:
        for color, kind in zip(LINES, KINDS, strict=False):
            for style, key, when in (("--", "error", "before"), ("-", "repaired_error", "after")):
                curve = _measured(derived["blocks"], kind, key)
                if curve:
                    _line(axes, curve, color, f"{kind}, {when}", style)
        axes.set_ylabel("relative output error")
        axes.set_ylim(bottom=0.0)
        block_axis(axes)
        legend(axes)

    return draw("repair", plot)


def cosine_plot(cosines: Sequence[float]) -> str:
    """How alike the input and output of each block of the dense model are."""

    def plot(axes: Axes) -> None:
        _line(axes, dict(enumerate(cosines)), LINES[0], "")
        axes.set_ylabel("cosine of input and output")
        block_axis(axes)

    return draw("cosines", plot)


def shares(blocks: Sequence[Mapping[str, Any]], kind: str) -> Curve:
    """Percent of the units of a kind that stay, by block."""
    found = {block["block"]: block["parts"][kind] for block in blocks if kind in block["parts"]}
    return {number: 100.0 * part["kept"] / part["units"] for number, part in found.items()}


def _measured(blocks: Sequence[Mapping[str, Any]], kind: str, key: str) -> Curve:
    found = {block["block"]: block["parts"].get(kind, {}).get(key) for block in blocks}
    return {number: value for number, value in found.items() if value is not None}


def _line(axes: Axes, curve: Curve, color: str, label: str, style: str = "-") -> None:
    marker = "o" if len(curve) < 3 else None
    axes.plot(list(curve), list(curve.values()), color=color, linestyle=style, label=label, marker=marker, markersize=3)
