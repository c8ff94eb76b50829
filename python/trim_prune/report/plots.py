"""The plots of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .figures import GRID, INK, LINES, block_axis, draw, legend, line_styles
from .masks import masks_of_run, matrices
from .run import Run, kind_of, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAT = (0.23, 0.51, 0.96)
"""Of a heat map: seen on white and on black; how strong it is tells the value."""
MAX_KINDS = 12
MARGIN = 4
"""Bins that a plot shows beyond those that rows lie in."""


def alike(derived: Mapping[str, Any]) -> bool:
    """Whether all linears of a block lose the same share of their weights, to what a plot can show."""
    whole = {block["block"]: block["sparsity"] for block in derived["blocks"]}
    return all(
        abs(sparsity - whole[block]) < 5e-4
        for kind in derived["kinds"].values()
        for block, sparsity in zip(kind["blocks"], kind["sparsities"], strict=True)
    )


def sparsity_plot(derived: Mapping[str, Any]) -> str:
    """Sparsity by block, of the whole and, where they are unlike, of its linears."""

    def plot(axes: Axes) -> None:
        if not alike(derived):
            _by_kind(axes, derived, "sparsities", 100.0)
        block_axis(axes)
        blocks = derived["blocks"]
        whole = [100.0 * block["sparsity"] for block in blocks]
        marker = "o" if len(blocks) < 3 else None
        axes.plot([block["block"] for block in blocks], whole, color=INK, linewidth=2.2, label="all", marker=marker)
        axes.set_ylabel("pruned weights, %")
        low, high = axes.get_ylim()
        middle, reach = (low + high) / 2, max((high - low) / 2, 5.0)
        axes.set_ylim(max(-2.0, middle - reach), min(102.0, middle + reach))
        legend(axes)

    return draw("sparsity", plot)


def error_plot(derived: Mapping[str, Any]) -> str:
    """Relative output error of every linear, by block."""

    def plot(axes: Axes) -> None:
        _by_kind(axes, derived, "output_errors", 1.0)
        axes.set_ylabel("relative output error")
        axes.set_ylim(bottom=0.0)
        legend(axes)

    return draw("error", plot)


def quality_plot(derived: Mapping[str, Any]) -> str:
    """Quality before and after the row search, mean over the linears of each block."""

    def plot(axes: Axes) -> None:
        for style, key, label in (("--", "baseline_quality", "equal rows"), ("-", "quality", "after the search")):
            found = [(block["block"], block[key]) for block in derived["blocks"] if block[key] is not None]
            axes.plot(*zip(*found, strict=True), color=LINES[0], linestyle=style, label=label)
        axes.set_ylabel("mean quality")
        block_axis(axes)
        legend(axes)

    return draw("quality", plot)


def rate_plot(run: Run) -> str:
    """How often the row search chose which learning rate."""
    searched = [linear for linear in run.linears if linear.get("baseline_quality") is not None]
    chosen = Counter(linear["learning_rate"] for linear in searched)
    rates: list[float | None] = [None, *sorted(rate for rate in chosen if rate is not None)]

    def plot(axes: Axes) -> None:
        labels = ["none" if rate is None else f"{rate:g}" for rate in rates]
        bars = axes.bar(labels, [chosen[rate] for rate in rates], color=LINES[0], width=0.6)
        axes.bar_label(bars, fontsize=8, color=INK)
        axes.set_xlabel("learning rate (none: equal rows were best)")
        axes.set_ylabel("linears")
        axes.margins(y=0.15)

    return draw("rates", plot)


def row_plots(run: Run, derived: Mapping[str, Any]) -> tuple[list[tuple[str, str]], int]:
    """Pairs of title and figure: a histogram over all linears, then of each kind a heat map over the blocks.

    And of how many kinds there is none: those beyond the first MAX_KINDS.
    """
    kinds: dict[str, dict[int, list[int]]] = {}
    for linear in matrices(masks_of_run(run.folder), run.linears):
        found = derived["row_histograms"].get(linear["name"])
        if found is None:
            continue
        blocks = kinds.setdefault(kind_of(linear), {})
        before = blocks.get(linear["block"], [0] * len(found))
        blocks[linear["block"]] = [a + b for a, b in zip(before, found, strict=True)]
    names = short_names(kinds)
    figures = [("All rows, by kind of linear", _histogram({names[kind]: kinds[kind] for kind in kinds}))]
    for number, kind in enumerate(list(kinds)[:MAX_KINDS]):
        figures.append((kind, _heat_map(f"rows{number}", kinds[kind])))
    return figures, max(0, len(kinds) - MAX_KINDS)


def phase_plot(seconds: Mapping[str, float]) -> str:
    """Seconds by phase."""
    phases = sorted(seconds.items(), key=lambda item: item[1])

    def plot(axes: Axes) -> None:
        bars = axes.barh([name for name, _ in phases], [value for _, value in phases], color=LINES[0], height=0.6)
        axes.bar_label(bars, labels=[_short(value) for _, value in phases], fontsize=8, padding=3, color=INK)
        axes.set_xlabel("time, s")
        axes.margins(x=0.12)

    return draw("phases", plot, height=0.9 + 0.22 * len(phases))


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.1g}"


def _by_kind(axes: Axes, derived: Mapping[str, Any], key: str, scale: float) -> None:
    kinds = derived["kinds"]
    names = short_names(kinds)
    for (kind, found), style in zip(kinds.items(), line_styles(len(kinds)), strict=True):
        by_block: dict[int, list[float]] = {}
        for block, value in zip(found["blocks"], found[key], strict=True):
            if value is not None:
                by_block.setdefault(block, []).append(scale * value)
        means = [sum(values) / len(values) for values in by_block.values()]
        marker = "o" if len(means) < 3 else None
        axes.plot(list(by_block), means, label=names[kind], marker=marker, markersize=3, **style)
    block_axis(axes)


def _histogram(kinds: Mapping[str, Mapping[int, Sequence[int]]]) -> str:
    totals = {name: torch.tensor(list(blocks.values())).sum(dim=0) for name, blocks in kinds.items()}
    whole = torch.stack(list(totals.values())).sum(dim=0)
    edges = [100.0 * n / len(whole) for n in range(len(whole) + 1)]

    def plot(axes: Axes) -> None:
        axes.stairs((100.0 * whole / whole.sum()).tolist(), edges, label="all", color=GRID, fill=True)
        for (name, total), style in zip(totals.items(), line_styles(len(totals)), strict=True):
            axes.stairs((100.0 * total / total.sum()).tolist(), edges, label=name, linewidth=1.0, **style)
        axes.set_xlim(*(edges[place] for place in _used(whole)))
        axes.set_xlabel("pruned weights of a row, %")
        axes.set_ylabel("rows, %")
        legend(axes)

    return draw("rows", plot)


def _heat_map(name: str, blocks: Mapping[int, Sequence[int]]) -> str:
    found = torch.zeros(max(blocks) + 1, len(next(iter(blocks.values()))))
    for block, counts in blocks.items():
        found[block] = torch.tensor(counts) / sum(counts)
    # The square root: bins with few rows are seen too.
    strength = (found / found.max()).sqrt().t()
    image = torch.cat([torch.tensor(HEAT).expand(*strength.shape, 3), strength.unsqueeze(2)], dim=2)

    low, high = _used(strength.sum(dim=1))

    def plot(axes: Axes) -> None:
        extent = (-0.5, len(found) - 0.5, 0.0, 100.0)
        axes.imshow(image.numpy(), extent=extent, origin="lower", aspect="auto", interpolation="none")
        axes.set_ylim(100.0 * low / len(strength), 100.0 * high / len(strength))
        axes.set_ylabel("pruned weights of a row, %")
        block_axis(axes)

    return draw(name, plot)


def _used(bins: Tensor) -> tuple[int, int]:
    """The edges of the bins that a plot shows."""
    used = bins.nonzero()
    return max(0, int(used.min()) - MARGIN), min(len(bins), int(used.max()) + 1 + MARGIN)
