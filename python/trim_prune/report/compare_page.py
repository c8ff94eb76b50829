"""The page of a comparison. Needs jinja2 and matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .evaluated import compared_table
from .figures import DASHES, block_axis, draw, legend, line_styles
from .page import render, safe
from .words import duration, peak

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = [
    ("sparsity", "Pruned share by block", "pruned weights, %", 100.0, ""),
    ("output_error", "Relative output error", "relative output error", 1.0, "mean over the linears of each block"),
    ("quality", "Quality after the row search", "mean quality", 1.0, "mean over the linears of each block"),
]
STRUCTURED_CURVES = [
    ("attention", "KV groups that stay", "KV groups, %", 100.0, ""),
    ("feed-forward", "Channels that stay", "channels, %", 100.0, ""),
    (
        "output_error",
        "Output error after the repair",
        "relative output error",
        1.0,
        "mean over the parts of each block",
    ),
]


def compare_page(comparison: Mapping[str, Any]) -> str:
    """All facts of a comparison, the curves of the runs in one plot each."""
    runs = comparison["runs"]
    names = [run["name"] for run in runs]
    phases = list(dict.fromkeys(phase for run in runs for phase in run["seconds"]))
    overlaps = comparison["overlaps"]
    what = "part" if comparison["structured"] else "linear"
    return render(
        "compare.html",
        model=runs[0]["model"],
        names=names,
        notes=comparison["notes"],
        run_columns=run_columns(comparison),
        run_rows=run_rows(comparison),
        evaluations=[compared_table(evaluation) for evaluation in comparison["evaluations"]],
        refused=comparison["refused"],
        figures=_figures(comparison),
        time_columns=[("phase", False), *((name, True) for name in names)],
        time_rows=[[phase, *(_seconds(run["seconds"].get(phase)) for run in runs)] for phase in phases],
        overlap_of="units" if comparison["structured"] else "weights",
        overlap_by=what,
        overlap_columns=[(what, False), *((name, True) for name in names[1:])],
        overlap_rows=[
            [linear, *(_share(overlaps[name][linear]) for name in names[1:])]
            for linear in next(iter(overlaps.values()))
        ],
    )


def run_columns(comparison: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Headings, and whether the values below are numbers."""
    own = ["parameters", "speed"] if comparison["structured"] else ["sparsity"]
    figures = [*own, "perplexity", "fallbacks", "time", "peak memory", "overlap"]
    return [("run", False), ("recipe", False), *((figure, True) for figure in figures)]


def run_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """One line for each run, under :func:`run_columns`."""
    measured = [x["results"] for x in comparison["evaluations"] if x["kind"] == "perplexity"]
    perplexities: dict[str, Any] = measured[-1] if measured else {}
    rows = []
    for run in comparison["runs"]:
        name, found = run["name"], comparison["overlaps"].get(run["name"])
        known = [value for value in (found or {}).values() if value is not None]
        if comparison["structured"]:
            own = [_structured_recipe(run["recipe"]), _share(run["share"], 4), f"{run['speed']:.2f} times"]
        else:
            own = [_recipe(run["recipe"]), f"{run['sparsity']:.4%}"]
        rows.append(
            [
                name,
                *own,
                f"{perplexities[name]['perplexity']:.2f}" if name in perplexities else "—",
                str(run["fallbacks"]),
                duration(sum(run["seconds"].values())),
                peak(run["peak_memory"]),
                _share(sum(known) / len(known)) if known else "—",
            ]
        )
    return rows


def _structured_recipe(recipe: Mapping[str, Any]) -> str:
    return ", ".join([recipe["mode"], *(f"{key} {recipe[key]}" for key in ("layers", "heads", "channels", "repair"))])


def _recipe(recipe: Mapping[str, Any]) -> str:
    pattern = [] if recipe["pattern"] is None else [recipe["pattern"]]
    correction = [f"correction {recipe['correction']}"] if recipe["correction"] else []
    parts = [recipe["score"], f"layers {recipe['layers']}", f"rows {recipe['rows']}", f"solver {recipe['solver']}"]
    return ", ".join([*pattern, *parts, *correction])


def _figures(comparison: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    runs, figures = comparison["runs"], []
    # The same in every figure, also in those that lack a run.
    styles = {
        # Dashes too: where two runs agree, both are seen.
        run["name"]: style | {"linestyle": DASHES[number % len(DASHES)]}
        for number, (run, style) in enumerate(zip(runs, line_styles(len(runs)), strict=True))
    }
    for key, title, label, scale, note in STRUCTURED_CURVES if comparison["structured"] else CURVES:
        curves = {
            run["name"]: {block["block"]: scale * block[key] for block in run["blocks"] if block.get(key) is not None}
            for run in runs
        }
        if any(curves.values()):
            figures.append((title, safe(_curves(key, curves, label, styles)), note))
    curves = {run["name"]: _overlap_by_block(comparison, run) for run in runs[1:]}
    of, what = ("units", "parts") if comparison["structured"] else ("masks", "linears")
    note = f"of each run with {runs[0]['name']}, mean over the {what}"
    return [*figures, (f"Overlap of the {of}", safe(_curves("overlap", curves, "both, % of either", styles)), note)]


def _overlap_by_block(comparison: Mapping[str, Any], run: Mapping[str, Any]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for name, value in comparison["overlaps"][run["name"]].items():
        if value is not None:
            found.setdefault(comparison["block_of"][name], []).append(100.0 * value)
    return {block: sum(values) / len(values) for block, values in found.items()}


def _curves(
    name: str, curves: Mapping[str, Mapping[int, float]], label: str, styles: Mapping[str, Mapping[str, Any]]
) -> str:
    def plot(axes: Axes) -> None:
        for run, curve in curves.items():
            if curve:
                marker = "o" if len(curve) < 3 else None
                axes.plot(list(curve), list(curve.values()), label=run, marker=marker, markersize=3, **styles[run])
        axes.set_ylabel(label)
        block_axis(axes)
        legend(axes)

    return draw(name, plot)


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f} s"


def _share(value: float | None, digits: int = 2) -> str:
    return "—" if value is None else f"{value:.{digits}%}"
