"""The plot of a search: how the best loss fell, and what the units keep in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .journal import finite_or_infinite, generation_of
from .levels import Scale
from .space import Levels


def plot_search(
    history: Sequence[Mapping[str, Any]],
    best: Levels,
    scale: Scale,
    sensitivity: Sequence[float] | None,
    fitness: str,
    path: Path,
) -> None:
    """Write an SVG with the losses of all that reached the last stage, and the sparsity of every unit.

    ``history``: the generations of every round, and the loss of its best vector by masks of its own. Needs matplotlib.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasSVG(figure)
    losses, units = figure.subplots(1, 2)
    generations = [entry for entry in history if "candidates" in entry]
    stages = max(len(candidate["losses"]) for candidate in generations[0]["candidates"])
    place = 0
    for number in range(generations[-1]["round"] + 1):
        begun = place
        best_yet: list[float] = []
        for entry in (entry for entry in generations if entry["round"] == number):
            finals = [x.losses[-1] for x in generation_of(entry) if len(x.losses) == stages]
            losses.plot([place] * len(finals), finals, ".", color="tab:gray", markersize=3)
            best_yet.append(min([*finals, *best_yet[-1:]]))
            place += 1
        label = "best so far, by the masks of its round" if number == 0 else None
        losses.plot(range(begun, place), best_yet, color="tab:blue", label=label)
        for entry in (entry for entry in history if entry["round"] == number and "loss" in entry):
            label = "best of a round, by masks of its own" if number == 0 else None
            losses.plot([place - 1], [finite_or_infinite(entry["loss"])], "x", color="tab:red", label=label)
    uniform = generation_of(generations[0])[0].losses[-1]
    losses.axhline(uniform, linestyle="--", color="tab:orange", label="uniform")
    losses.set_xlabel("generation")
    losses.set_ylabel("KL to the dense model, nats per token" if fitness == "kl" else "nats per token")
    losses.legend()
    units.step(range(len(best)), [scale.sparsity(level) for level in best], where="mid", label="best")
    units.set_xlabel("unit, from the first block to the last")
    units.set_ylabel("share of weights pruned")
    if sensitivity is not None:
        twin = units.twinx()
        twin.semilogy(range(len(sensitivity)), sensitivity, ":", color="tab:gray")
        twin.set_ylabel("sensitivity per weight (dotted)")
    figure.savefig(path)
