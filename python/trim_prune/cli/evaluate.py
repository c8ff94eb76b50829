"""trim-prune evaluate."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..evaluation.perplexity import evaluate as run_evaluate
from .quiet import quiet_libraries


def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, or hub id such as org/name.")],
    data: Annotated[
        str, typer.Option(help="Text: a .txt or .jsonl file, or a dataset: wikitext (test), c4 (validation).")
    ],
    seqlen: Annotated[int, typer.Option(help="Tokens per window.")] = 2048,
    max_windows: Annotated[int | None, typer.Option(min=1, help="Stop after so many windows (default: all).")] = None,
    gguf: Annotated[str | None, typer.Option(help="GGUF file, in the model folder or anywhere.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    text_field: Annotated[str, typer.Option(help="Field of a .jsonl file.")] = "text",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the perplexity of a model over non-overlapping windows.

    [bold]Examples[/bold]

    trim-prune evaluate pruned --data wikitext --seqlen 2048

    trim-prune evaluate ./model --data held-out.txt --seqlen 512 --json

    Figures can be compared only where text, tokens, seqlen and BOS rule are the same; all four are printed.
    """
    quiet_libraries()
    bar = Progress(
        TextColumn("windows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    with bar:
        task = bar.add_task("windows", total=None)
        result = run_evaluate(
            model,
            data,
            seqlen=seqlen,
            gguf=gguf,
            dtype=dtype,
            device=device,
            max_windows=max_windows,
            trust_remote_code=trust_remote_code,
            text_field=text_field,
            on_batch=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps(asdict(result)))
        return
    print(f"perplexity {result.perplexity:.2f}")
    print(f"data       {result.data}")
    print(f"tokens     {result.tokens} ({result.windows} windows)")
    print(f"seqlen     {result.seqlen}")
    print(f"BOS rule   {result.bos}")
