"""trim-prune prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..api import prune as run_prune
from ..callbacks import CALLBACKS
from ..models.staging import protect_inputs
from ..progress import Lines, progress_for
from ..results import PruneResult
from ..structured import StructuredResult
from ..team import is_first
from .choices import DATA, HOW, OUTPUT, WHAT, Chosen, takes_recipe
from .quiet import quiet_libraries
from .structured import print_structured


@takes_recipe
def prune(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, or hub id such as org/name.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the pruned model; new or empty.", rich_help_panel=OUTPUT, show_default=False),
    ],
    chosen: Chosen,
    gguf: Annotated[
        str | None, typer.Option(help="GGUF file, in the model folder or anywhere.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text: a .txt or .jsonl file, or a dataset: c4, wikitext.", rich_help_panel=DATA),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field of a .jsonl file.", rich_help_panel=DATA)] = "text",
    callback: Annotated[
        list[str] | None,
        typer.Option(help="Name of a callback that a plug-in brings; may be repeated.", rich_help_panel=HOW),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model folder.", rich_help_panel=HOW)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output folder if it exists.", rich_help_panel=OUTPUT)
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Go on where a run for this output stopped, or begin anew.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            help="Largest weight file, such as 5GB (default: the files of the model).", rich_help_panel=OUTPUT
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(help="The --out of an earlier run, whose first blocks are taken over.", rich_help_panel=OUTPUT),
    ] = None,
    from_block: Annotated[
        int | None,
        typer.Option(help="With --from-run: the first block that is pruned, counted from 0.", rich_help_panel=OUTPUT),
    ] = None,
) -> None:
    """Prune a model and write it as safetensors.

    [bold]Examples[/bold]

    trim-prune prune meta-llama/Llama-3.2-1B --preset best --sparsity 0.7 --data c4 --out pruned

    trim-prune prune ./model --sparsity 0.7 --score wanda --rows trim --data text.txt --samples 128 --out pruned

    trim-prune prune ./model --recipe recipe.yaml --data text.jsonl --text-field content --out pruned

    trim-prune prune ./model --preset slimllm --params 0.8 --data text.txt --out smaller

    trim-prune prune ./model --preset wanda --keep 2 --of 4 --data text.txt --out pruned

    torchrun --nproc-per-node 8 -m trim_prune prune ./model --preset best --sparsity 0.7 --data text.txt --out pruned

    trim-prune prune ./model --gguf model.Q4_1.gguf --sparsity 0.5 --score magnitude --rows uniform --out pruned

    The output folder holds the model (load it like the original), the tokenizer, masks.safetensors, run.json and
    events.jsonl. The sparsity is exact: round(sparsity * weights) weights are zero; with --of it is as near as whole
    groups allow. With --params or --ratio the model becomes smaller; a fresh process loads it and compares, and there
    are no masks. What stopped goes on from OUT.unfinished with the same command; with --params or --ratio it begins
    anew.
    """
    if chosen.file is not None:
        protect_inputs(out, {"recipe": chosen.file})
    callbacks = [CALLBACKS.get(name)() for name in callback or ()]
    quiet_libraries()
    with progress_for() if is_first() else Lines() as progress:
        result = run_prune(
            model,
            chosen.recipe,
            data,
            out=out,
            overwrite=overwrite,
            resume=resume,
            max_shard_size=max_shard_size,
            from_run=from_run,
            from_block=from_block,
            gguf=gguf,
            trust_remote_code=trust_remote_code,
            text_field=text_field,
            on_event=progress,
            callbacks=callbacks,
        )
    if not is_first():
        return
    if isinstance(result, StructuredResult):
        print_structured(Console(), result)
    else:
        _print(Console(), result)


def _print(console: Console, result: PruneResult) -> None:
    sparsity = result.sparsity
    table = Table("sparsity", "share", "pruned", "of", box=None, pad_edge=False)
    for label, share, whole in (
        ("of prunable weights", sparsity.of_prunable, sparsity.prunable_weights),
        ("of non-embedding parameters", sparsity.of_non_embedding, sparsity.non_embedding_parameters),
        ("of all parameters", sparsity.of_all, sparsity.all_parameters),
    ):
        table.add_row(label, f"{share:.6f}", str(sparsity.pruned), str(whole))
    if result.recipe.pattern is not None:
        console.print(f"pattern  {result.recipe.pattern}")
    console.print(table)
    console.print("seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in result.timings.items()))
    console.print(f"written to {result.out}", soft_wrap=True, markup=False, highlight=False)
    console.print(
        "The files are as large as before and a dense runtime is as fast as before: zeros save space and time only in "
        "a sparse format with kernels for it.",
        soft_wrap=True,
    )
