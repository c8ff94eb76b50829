"""trim-prune: the application, its errors and its exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import torch
import typer

from .. import __version__
from ..errors import TrimPruneError
from ..team import heed_others, may_tell, ranks_wanted
from .compare import compare
from .demo import demo
from .describe import describe
from .doctor import doctor
from .evaluate import evaluate
from .masks import masks
from .merge_lora import merge_lora
from .pack import pack, unpack
from .plan import plan
from .prune import prune
from .report import report

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
app.command()(plan)
app.command()(evaluate)
app.command()(report)
app.command()(compare)
app.command()(pack)
app.command()(unpack)
app.command()(merge_lora)
app.add_typer(masks, name="masks")
app.command()(demo)
app.command()(describe)
app.command()(doctor)


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
    """Run the command line: exit code 0 on success, 2 for bad input or too little memory, 130 after Ctrl-C.

    Of several processes that prune together one tells of an error: the one that hit it first.
    """
    heed_others()
    try:
        _refuse_ranks(sys.argv[1:])
        app()
    except TrimPruneError as error:
        _fail(error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(_out_of_memory(error))


def _refuse_ranks(arguments: list[str]) -> None:
    if ranks_wanted() > 1 and arguments[:1] != ["prune"]:
        raise TrimPruneError(
            "only a prune is done by several processes together",
            got=f"{' '.join(arguments[:1])}, {ranks_wanted()} processes",
            fix="start it without torchrun",
        )


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _out_of_memory(error: Exception) -> TrimPruneError:
    return TrimPruneError(
        "out of memory",
        got=(str(error).splitlines() or [type(error).__name__])[0],
        fix="a smaller --batch-size, fewer --samples, a shorter --seqlen, or another --device",
    )


def _fail(error: TrimPruneError) -> NoReturn:
    several = ranks_wanted() > 1
    if several:
        # From torchrun, which may come as soon as another rank has ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if may_tell():
        rank = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: " if several else ""
        print(f"error: {rank}{error}", file=sys.stderr, flush=True)
    if several:
        # Not in order: that would wait for what other ranks do not send any more.
        os._exit(2)
    sys.exit(2)


if __name__ == "__main__":
    main()
