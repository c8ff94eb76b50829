"""The rows of benchmarks.structured as tables in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.quality_file import star, stars

PUBLISHED = {0.8: 1.26, 0.5: 3.0}
"""Times the dense perplexity on WikiText-2 at 128 tokens: SlimLLM on LLaMA-7B, without fine-tuning."""


def table(content: dict[str, Any]) -> str:
    """One table for each share of the parameters that stays and each number of calibration sequences."""
    protocol, rows = content["protocol"], content["rows"]
    short, long = protocol["window"], protocol["long_window"]
    lines = [
        f"{protocol['model']}, dense {content['dense_perplexity']:.2f} and {content['dense_long_perplexity']:.2f}: "
        f"perplexity on {protocol['windows']} x {short} and {protocol['long_windows']} x {long} tokens of "
        f"{protocol['text']}, computed in {protocol['dtype']}.",
        "In brackets: times the dense perplexity. Speed: tokens a second when decoding, as a multiple of the dense "
        "model in bursts that take turns. Error: mean square of what the outputs of pruned parts lack on the "
        f"calibration text, as a share, before and after repair. Memory: beyond the model.{stars(rows)}",
    ]
    groups = {(row["params"], row["recipe"]["samples"]) for row in rows}
    for params, samples in sorted(groups, key=lambda group: (-group[0], group[1])):
        chosen = [row for row in rows if (row["params"], row["recipe"]["samples"]) == (params, samples)]
        published = f" Published for LLaMA-7B: {PUBLISHED[params]:.2f} times." if params in PUBLISHED else ""
        lines += [
            "",
            f"{1 - params:.0%} of the parameters removed, calibrated on {samples} x {protocol['seqlen']} "
            f"tokens.{published}",
            "",
            f"| method | perplexity, {short} | perplexity, {long} | parameters kept | KV groups | channels | error | "
            "speed | prune | memory | threads |",
            "|---" * 11 + "|",
        ]
        lines += [_line(row) for row in chosen]
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any]) -> str:
    before, after = row["error"]
    error = "" if before is None else f"{before:.3f}, {after:.3f}"
    cells = [
        f"{row['method']}{star(row)}",
        f"{row['perplexity']:.1f} ({row['ratio_to_dense']:.2f})",
        f"{row['long_perplexity']:.1f} ({row['long_ratio_to_dense']:.2f})",
        f"{row['parameters'] / row['dense_parameters']:.4%}",
        _range(row["kv_groups"]),
        _range(row["channels"]),
        error,
        f"{row['speedup']:.2f}",
        f"{row['seconds']:.0f} s",
        f"{row['memory'] / 2**20:.0f} MiB",
        str(row["threads"]),
    ]
    return f"| {' | '.join(cells)} |"


def _range(counts: list[int]) -> str:
    """Of the blocks that lost any."""
    return f"{min(counts)} to {max(counts)} in {len(counts)} blocks" if counts else "all"
