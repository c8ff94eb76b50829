"""The plot of a search: how the best loss fell, and what the units keep in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .evolution import Found, Generation
from .levels import Scale


def plot_search(
    generations: Sequence[Generation],
    found: Found,
    scale: Scale,
    sensitivity: Sequence[float] | None,
    fitness: str,
    path: Path,
) -> None:
    """Write an SVG with the losses of all that reached the last stage, and the sparsity of every unit.

    Needs matplotlib.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasSVG(figure)
    losses, units = figure.subplots(1, 2)
    stages = max(len(candidate.losses) for candidate in generations[0])
    finals = [
        [candidate.losses[-1] for candidate in generation if len(candidate.losses) == stages]
        for generation in generations
    ]
    for number, values in enumerate(finals):
        losses.plot([number] * len(values), values, ".", color="tab:gray", markersize=3)
    best = [min(min(values, default=float("inf")) for values in finals[: number + 1]) for number in range(len(finals))]
    losses.plot(range(len(best)), best, label="best so far")
    losses.axhline(found.uniform.losses[-1], linestyle="--", color="tab:orange", label="uniform")
    losses.set_xlabel("generation")
    losses.set_ylabel("KL to the dense model, nats per token" if fitness == "kl" else "nats per token")
    losses.legend()
    units.step(
        range(len(found.best.levels)), [scale.sparsity(level) for level in found.best.levels], where="mid", label="best"
    )
    units.set_xlabel("unit, from the first block to the last")
    units.set_ylabel("share of weights pruned")
    if sensitivity is not None:
        twin = units.twinx()
        twin.semilogy(range(len(sensitivity)), sensitivity, ":", color="tab:gray")
        twin.set_ylabel("sensitivity per weight (dotted)")
    figure.savefig(path)
