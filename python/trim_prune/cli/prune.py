"""trim-prune prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import presets
from ..api import prune as run_prune
from ..budgets.layers import LAYER_BUDGETS
from ..budgets.rows import ROW_BUDGETS
from ..callbacks import CALLBACKS
from ..errors import TrimPruneError
from ..models.staging import protect_inputs
from ..progress import Lines, progress_for
from ..recipes import AnyRecipe, build_recipe, load_recipe
from ..results import PruneResult
from ..scores import SCORES
from ..solvers import SOLVERS
from ..structured import StructuredResult
from ..team import is_first
from .quiet import quiet_libraries
from .structured import print_structured

WHAT, DATA, HOW, OUTPUT = "What to prune", "Calibration", "How it runs", "Output"
PRESETS, STRUCTURED, SCORE_NAMES, LAYERS, ROWS, SOLVER_NAMES = (
    ", ".join(names)
    for names in (
        presets.names(),
        presets.names(presets.STRUCTURED),
        *(registry.registered() for registry in (SCORES, LAYER_BUDGETS, ROW_BUDGETS, SOLVERS)),
    )
)


def prune(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, or hub id such as org/name.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the pruned model; new or empty.", rich_help_panel=OUTPUT, show_default=False),
    ],
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights of all linears that go, e.g. 0.7.", rich_help_panel=WHAT)
    ] = None,
    params: Annotated[
        float | None,
        typer.Option(help="Share of all parameters that stays when whole heads and channels go.", rich_help_panel=WHAT),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="Share of all parameters that goes, as heads and channels.", rich_help_panel=WHAT),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help=f"A recipe with a name: {PRESETS}; for --params: {STRUCTURED}.", rich_help_panel=WHAT),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="With --params: ragged (each block its size), uniform (all alike, loads anywhere) or masked (zeros).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    repair: Annotated[
        str | None,
        typer.Option(help="With --params: affine, full or none, what makes up for what went.", rich_help_panel=WHAT),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help=f"Importance of a weight: {SCORE_NAMES} (default: wanda).", rich_help_panel=WHAT)
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help=f"Budget of the linears: {LAYERS} (default: uniform).", rich_help_panel=WHAT)
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help=f"Budget of the rows: {ROWS} (default: trim).", rich_help_panel=WHAT)
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help=f"What survivors do: {SOLVER_NAMES} (default: mask).", rich_help_panel=WHAT)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Weights that stay of every --of columns; without it, as --layers says.", rich_help_panel=WHAT
        ),
    ] = None,
    of: Annotated[int | None, typer.Option(help="Columns of a group of an N:M pattern.", rich_help_panel=WHAT)] = None,
    permute: Annotated[
        bool | None,
        typer.Option(
            "--permute",
            help="Order columns so that the groups of a pattern lose least, where the model stays exactly the same.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    correction: Annotated[
        float | None,
        typer.Option(
            help="Share of what earlier blocks changed that a linear makes up for (default 0).", rich_help_panel=WHAT
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with any of these choices, and the options of the methods.", rich_help_panel=WHAT),
    ] = None,
    gguf: Annotated[
        str | None, typer.Option(help="GGUF file, in the model folder or anywhere.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text: a .txt or .jsonl file, or a dataset: c4, wikitext.", rich_help_panel=DATA),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field of a .jsonl file.", rich_help_panel=DATA)] = "text",
    samples: Annotated[
        int | None, typer.Option(help="Number of sequences (default 128).", rich_help_panel=DATA)
    ] = None,
    seqlen: Annotated[
        int | None,
        typer.Option(help="Tokens per sequence (default 2048, or the model's context).", rich_help_panel=DATA),
    ] = None,
    tokens_per_sequence: Annotated[
        int | None,
        typer.Option(help="Tokens of each sequence that the row search sees (default 1).", rich_help_panel=DATA),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling (default 0).", rich_help_panel=DATA)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Compute in float32, bfloat16 or float16 (default auto: as stored).", rich_help_panel=HOW),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Sequences per forward, at most an eighth of --samples or 4 (default 4).", rich_help_panel=HOW
        ),
    ] = None,
    damping: Annotated[
        float | None,
        typer.Option(
            help="Damping of Gram matrices, as a share of their mean diagonal (default: by the number of tokens).",
            rich_help_panel=HOW,
        ),
    ] = None,
    recapture: Annotated[
        bool | None,
        typer.Option(
            "--recapture", help="Measure later linears of a block after earlier ones are pruned.", rich_help_panel=HOW
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 (default auto).", rich_help_panel=HOW)] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict", help="Stop at a linear that needs a fallback, in place of recording it.", rich_help_panel=HOW
        ),
    ] = None,
    allow_uncovered: Annotated[
        bool | None,
        typer.Option(
            "--allow-uncovered",
            help="Leave weights of the blocks dense that lie in no linear, even above 1%.",
            rich_help_panel=HOW,
        ),
    ] = None,
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
    events.jsonl. The sparsity is exact: round(sparsity * weights) weights are zero. With --params or --ratio the model
    becomes smaller; a fresh process loads it and compares, and there are no masks. What
    stopped goes on from OUT.unfinished with the same command.
    """
    given = {
        "sparsity": sparsity,
        "params": params,
        "ratio": ratio,
        "mode": mode,
        "repair": repair,
        "preset": preset,
        "score": score,
        "layers": layers,
        "rows": rows,
        "solver": solver,
        "pattern": _pattern(keep, of),
        "permute": permute,
        "correction": correction,
        "samples": samples,
        "seqlen": seqlen,
        "seed": seed,
        "dtype": dtype,
        "tokens_per_sequence": tokens_per_sequence,
        "damping": damping,
        "recapture": recapture,
        "batch_size": batch_size,
        "device": device,
        "strict": strict,
        "allow_uncovered": allow_uncovered,
    }
    chosen = _recipe(recipe, {key: value for key, value in given.items() if value is not None})
    if recipe is not None:
        protect_inputs(out, {"recipe": recipe})
    callbacks = [CALLBACKS.get(name)() for name in callback or ()]
    quiet_libraries()
    with progress_for() if is_first() else Lines() as progress:
        result = run_prune(
            model,
            chosen,
            data,
            out=out,
            overwrite=overwrite,
            resume=resume,
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


def _recipe(path: Path | None, options: dict[str, Any]) -> AnyRecipe:
    return build_recipe(options, where="options") if path is None else load_recipe(path, options)


def _pattern(keep: int | None, of: int | None) -> str | None:
    if of is None:
        if keep is not None:
            raise TrimPruneError("a pattern needs both numbers", got=f"--keep {keep}", fix=f"--keep {keep} --of 4")
        return None
    return f"of {of}" if keep is None else f"keep {keep} of {of}"


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
