"""The rows of benchmarks.msp as a table in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.quality_file import star, stars


def table(content: dict[str, Any]) -> str:
    """A row for every pruned model, and what a candidate takes."""
    protocol = content["protocol"]
    uniform = {_base(row): row["perplexity"] for row in content["rows"] if row["method"].endswith(", uniform")}
    lines = [
        f"{protocol['model']}, dense {content['dense_perplexity']:.2f}, 75% in groups of 8: perplexity on "
        f"{protocol['windows']} x {protocol['window']} tokens of {protocol['text']}, computed in {protocol['dtype']}."
        f"{stars(content['rows'])}",
        "",
        "| method | perplexity | against uniform | kept of 8, by block | search | evaluations | a second | prune | "
        "threads | memory |",
        "|---" * 10 + "|",
    ]
    for row in content["rows"]:
        base = uniform.get(_base(row))
        against = f"{row['perplexity'] / base - 1:+.1%}" if base else ""
        lines.append(
            f"| {row['method']}{star(row)} | {row['perplexity']:.0f} | {against} | {''.join(map(str, row['keeps']))} "
            + (
                f"| {row['search_seconds']:.0f} s | {row['evaluations']} | {row['evaluations_per_second']:.2f} "
                if row["evaluations"]
                else "| | | "
            )
            + f"| {row['seconds']:.0f} s | {row['threads']} | {_memory(row)} |"
        )
    for device, took in sorted(content["candidates"].items()):
        where = f"a CPU (threads: {took['threads']})" if device == "cpu" else "a GPU"
        lines += ["", _candidate(where, took)]
    return "\n".join([*lines, ""])


def _candidate(where: str, took: dict[str, Any]) -> str:
    stages, searched, copied = took["stages"], took["search"], took["copy"]
    first, copied_first = took["search_first"], took["copy_first"]
    return (
        f"One candidate in the search, on {where}: {searched:.2f} s, in mean over a generation and its stages of "
        f"{', '.join(map(str, stages))} tokens. Copied with its masks into the model, and the model run on all "
        f"{stages[-1]}: {copied:.2f} s, {copied / searched:.1f} times as long. On the tokens of the first stage alone: "
        f"{first:.2f} s and {copied_first:.2f} s, {copied_first / first:.1f} times."
    )


def _memory(row: dict[str, Any]) -> str:
    """Rows from before it was measured have none."""
    return f"{row['memory'] / 2**30:.1f} GiB" if row.get("memory") else ""


def _base(row: dict[str, Any]) -> str:
    return str(row["method"].split(", ")[0])
