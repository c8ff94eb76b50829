"""trim-prune masks: export, apply, diff, intersect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..formats.apply import apply_masks
from ..formats.masks import Masks, Overlap, common_names, export_masks, overlap, require_suffix
from ..formats.masks import intersect as intersect_masks
from ..formats.sources import open_masks
from ..models.staging import check_output
from .quiet import quiet_libraries

SOURCE = (
    "Masks: a model folder (its masks.safetensors, or else its zeros), a .safetensors or .npz file, or what TRIM saves"
)
Source = Annotated[Path, typer.Argument(help=f"{SOURCE}.", show_default=False)]
OutFile = Annotated[Path, typer.Option(help="File to write: .safetensors, or .npz for numpy.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]

masks = typer.Typer(
    help="Exchange masks: which weights of each linear stay.", rich_markup_mode="rich", no_args_is_help=True
)


@masks.command()
def export(source: Source, out: OutFile, overwrite: Overwrite = False) -> None:
    """Write the masks of a pruned model to a file of their own, or convert a file of masks.

    [bold]Examples[/bold]

    trim-prune masks export pruned --out masks.npz

    trim-prune masks export pruning_masks.pkl --out masks.safetensors
    """
    quiet_libraries()
    require_suffix(out)
    found = open_masks(source)
    export_masks(found, out, overwrite)
    _print_written(out, found)


@masks.command()
def apply(
    model: Annotated[Path, typer.Argument(help="Model folder.", show_default=False)],
    source: Annotated[Path, typer.Option("--masks", help=f"{SOURCE}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the masked model; new or empty.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Set to zero what masks prune, in a copy of a model folder.

    [bold]Example[/bold]

    trim-prune masks apply ./model --masks pruned --out masked
    """
    quiet_libraries()
    check_output(out, overwrite)
    pruned = apply_masks(model, open_masks(source), out, overwrite=overwrite)
    print(f"pruned {pruned} weights; written to {out}")


@masks.command()
def diff(first: Source, second: Source) -> None:
    """Show how far two masks agree, linear by linear: what each prunes, what both prune, and their overlap.

    [bold]Example[/bold]

    trim-prune masks diff pruned-wanda pruned-trim

    The overlap is the share of what either prunes that both prune, as in compare: 1 for the same weights.
    """
    quiet_libraries()
    _print_overlaps(open_masks(first), open_masks(second))


@masks.command()
def intersect(
    sources: Annotated[list[Path], typer.Argument(help=f"Two or more. {SOURCE}.", show_default=False)],
    out: OutFile,
    overwrite: Overwrite = False,
) -> None:
    """Write the masks of what all of several masks keep.

    [bold]Example[/bold]

    trim-prune masks intersect pruned-wanda pruned-trim --out both.safetensors
    """
    quiet_libraries()
    require_suffix(out)
    if len(sources) < 2:
        raise typer.BadParameter("give two or more masks")
    found = intersect_masks([open_masks(source) for source in sources])
    export_masks(found, out, overwrite)
    _print_written(out, found)


def _print_written(out: Path, found: Masks) -> None:
    print(f"{len(found)} masks written to {out}")


def _print_overlaps(first: Masks, second: Masks) -> None:
    table = Table("linear", "first prunes", "second prunes", "both prune", "overlap", box=None, pad_edge=False)
    total = Overlap(0, 0, 0, 0)
    names = common_names([first, second])
    for name in names:
        found = overlap(first, second, name)
        total += found
        table.add_row(name.removesuffix(".weight"), *_cells(found))
    table.add_row("all", *_cells(total))
    console = Console()
    console.print(table)
    for masks_, other in ((first, second), (second, first)):
        alone = [name for name in masks_ if name not in other.shapes]
        if alone:
            print(f"only in {masks_.where}: {', '.join(alone)}")


def _cells(found: Overlap) -> list[str]:
    shares = (count / found.weights for count in (found.first, found.second, found.both))
    return [*(f"{share:.4f}" for share in shares), "—" if found.share is None else f"{found.share:.4f}"]
