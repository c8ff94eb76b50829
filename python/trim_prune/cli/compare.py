"""trim-prune compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..events import to_json
from ..report.compare import compare_runs
from ..report.compare_page import compare_page, run_columns, run_rows
from ..report.page_file import check_page, write_page
from ..report.write import require_report


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders that trim-prune prune wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file with the curves side by side.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no page of ours.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare prunes of one model: budgets, masks, perplexities, time.

    [bold]Example[/bold]

    trim-prune compare wanda trim --out compare.html

    The overlap is with the first run: the weights that both prune, as a share of those that either does; where whole
    heads and channels went, the units. Perplexities are compared only where both were measured by one protocol;
    otherwise what differs is named.
    """
    if out is not None:
        check_page(out, overwrite)
        require_report()
    comparison = compare_runs(runs)
    if out is not None:
        write_page(out, compare_page(comparison))
    if as_json:
        print(to_json(comparison))
        return
    table = Table(box=None, pad_edge=False)
    for name, numeric in run_columns(comparison):
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for row in run_rows(comparison):
        table.add_row(*row)
    Console().print(table)
    for note in [*comparison["notes"], *comparison["refused"]]:
        print(note)
    if out is not None:
        print(f"written to {out}")
