"""The rows of benchmarks.quality as a table in Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality_file import star, stars


def table(content: dict[str, Any]) -> str:
    """One table for each number of calibration sequences: perplexity, ratio to dense and seconds by sparsity."""
    protocol, rows = content["protocol"], content["rows"]
    lines = [
        f"{protocol['model']}, dense {content['dense_perplexity']:.2f}: perplexity on {protocol['windows']} x "
        f"{protocol['window']} tokens of {protocol['text']}, computed in {protocol['dtype']}.",
        "In brackets: times the dense perplexity; seconds of the prune; the share of pruned weights where it is not "
        f"exactly what the head of the column says.{stars(rows)}",
    ]
    for samples in sorted({row["samples"] for row in rows}):
        chosen = [row for row in rows if row["samples"] == samples]
        sparsities = sorted({row["sparsity"] for row in chosen})
        lines += [
            "",
            f"Calibrated on {samples} x {protocol['seqlen']} tokens:",
            "",
            "| method | " + " | ".join(f"{100 * sparsity:g}%" for sparsity in sparsities) + " |",
            "|---" * (len(sparsities) + 1) + "|",
        ]
        for method in dict.fromkeys(row["method"] for row in chosen):
            cells = [_cell(chosen, method, sparsity) for sparsity in sparsities]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(rows: Sequence[dict[str, Any]], method: str, sparsity: float) -> str:
    for row in rows:
        if (row["method"], row["sparsity"]) == (method, sparsity):
            exact = row["pruned"] == round(sparsity * row["prunable_weights"])
            share = "" if exact else f"; {row['pruned'] / row['prunable_weights']:.4%}"
            return f"{row['perplexity']:.1f} ({row['ratio_to_dense']:.2f}; {row['seconds']:.0f} s{star(row)}{share})"
    return ""


def plot(content: dict[str, Any], path: Path) -> None:
    """Perplexity over sparsity, a line a method, a panel for each number of calibration sequences."""
    from matplotlib.figure import Figure

    protocol, rows = content["protocol"], content["rows"]
    counts = sorted({row["samples"] for row in rows})
    figure = Figure(figsize=(6.4 * len(counts), 5), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for panel, samples in zip(panels, counts, strict=True):
        chosen = [row for row in rows if row["samples"] == samples]
        for index, method in enumerate(dict.fromkeys(row["method"] for row in chosen)):
            points = sorted((row["sparsity"], row["perplexity"]) for row in chosen if row["method"] == method)
            style = "-" if index < 10 else "--"
            panel.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=method)
        panel.axhline(content["dense_perplexity"], color="grey", linewidth=0.8)
        panel.set(yscale="log", xlabel="sparsity", title=f"{samples} x {protocol['seqlen']} calibration tokens")
    panels[0].set_ylabel("perplexity")
    panels[-1].legend(fontsize="small")
    figure.suptitle(protocol["model"])
    figure.savefig(path, dpi=110)
