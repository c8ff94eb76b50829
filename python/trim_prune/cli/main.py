"""trim-prune: the application, its errors and its exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import TrimPruneError
from .demo import demo
from .evaluate import evaluate
from .prune import prune

app = typer.Typer(
    name="trim-prune",
    help="Prune large language models: Wanda scores, TRIM row budgets, exact sparsity.\n\n"
    "Start with [bold]trim-prune demo[/bold]; then "
    "[bold]trim-prune prune MODEL --sparsity 0.6 --data text.txt --out DIR[/bold].",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(prune)
app.command()(evaluate)
app.command()(demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"trim-prune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command line: exit code 0 on success, 2 for bad input, 130 after Ctrl-C."""
    try:
        app()
    except TrimPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
