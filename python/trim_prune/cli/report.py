"""trim-prune report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..report.card import CARD_FILE
from ..report.write import REPORT_FILE, require_report, write_report


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that trim-prune prune wrote.")],
) -> None:
    """Make the reports of pruned models again, from what their folders hold.

    [bold]Example[/bold]

    trim-prune report pruned

    Writes report.html, report.json and the model card README.md from run.json and the files of the model. A README.md
    that somebody wrote or changed stays as it is.
    """
    require_report()
    for folder in folders:
        ours = write_report(folder)
        print(f"written to {folder / REPORT_FILE}")
        if not ours:
            print(f"{folder / CARD_FILE} was not written by trim-prune, or was changed since: left as it is")
