"""trim-prune evaluate."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..evaluation.dense import refuse_pruned
from ..evaluation.measure import Wanted, keep, measure, show
from ..evaluation.protocol import require_alike
from ..events import to_json
from ..report.evaluated import Evaluated, evaluated_tables
from ..run_facts import known_facts
from ..runfile import RUN_FILE
from .quiet import quiet_harness, quiet_libraries
from .warn import warn


def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, or hub id such as org/name.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Text for the perplexity: a .txt or .jsonl file, or a dataset: wikitext (test), c4 (validation)."
        ),
    ] = None,
    seqlen: Annotated[int, typer.Option(help="Tokens per window.")] = 2048,
    max_windows: Annotated[int | None, typer.Option(min=1, help="Stop after so many windows (default: all).")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Zero-shot tasks of lm-evaluation-harness: piqa,hellaswag,arc_easy.")
    ] = None,
    task_data: Annotated[
        Path | None,
        typer.Option(help="Folder with the data of the tasks, such as piqa/validation.jsonl (default: from the hub)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many examples of each task (default: all).")] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Tokens per second, for a prompt and after it, and memory.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="The dense model, measured in the same way and shown beside MODEL.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="GGUF file, in the model folder or anywhere.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    text_field: Annotated[str, typer.Option(help="Field of a .jsonl file.")] = "text",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model: perplexity over non-overlapping windows, zero-shot tasks, speed.

    [bold]Examples[/bold]

    trim-prune evaluate pruned --data wikitext --seqlen 2048 --against ./model

    trim-prune evaluate ./model --data held-out.txt --seqlen 512 --json

    trim-prune evaluate pruned --tasks piqa,hellaswag --task-data tasks --limit 200

    trim-prune evaluate pruned --against ./model --speed

    Each figure is printed with the protocol that it was measured by; figures of unlike protocols cannot be compared,
    and are not. What is measured of a folder that trim-prune wrote is added to its run.json and its report.
    """
    quiet_libraries()
    wanted = Wanted(data, seqlen, max_windows, text_field, tuple(_names(tasks)), task_data, limit, speed)
    wanted.check()
    if wanted.tasks:
        quiet_harness()
    run = known_facts(Path(model).expanduser())
    if against is not None:
        refuse_pruned(against, run)
    pruned = against is not None or (Path(model) / RUN_FILE).is_file()
    models = [(model, "pruned" if pruned else "dense", gguf), *([(against, "dense", None)] if against else [])]
    found: list[dict[str, Any]] = []
    kept = False
    try:
        with _Bars() as bars:
            for name, of, file in models:
                measured = measure(
                    name,
                    of,
                    wanted,
                    run=run if of == "dense" else None,
                    gguf=file,
                    dtype=dtype,
                    device=device,
                    trust_remote_code=trust_remote_code,
                    on_progress=bars.update,
                )
                for first, second in zip(found, measured, strict=False):
                    require_alike(first["protocol"], second["protocol"])
                if found and found[0]["embeddings"] != measured[0]["embeddings"]:
                    warn(
                        f"{against} may not be the model that {model} was made from: a prune leaves the embeddings as "
                        "they are, and these are others. Its figures are shown, and not kept"
                    )
                else:
                    kept = keep(Path(model), measured, warn)
                found += measured
                # The next model has the memory of this one.
                gc.collect()
    finally:
        if kept:
            show(Path(model), warn)
    if as_json:
        print(to_json({"evaluations": found}))
        return
    for table in evaluated_tables(found):
        _print(table)
    if kept:
        print(f"kept in {Path(model) / RUN_FILE}")


class _Bars:
    """A bar with the time left for each thing that is measured, on standard error."""

    def __init__(self) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def update(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _names(tasks: str | None) -> list[str]:
    return [name for name in (tasks or "").split(",") if name]


def _print(table: Evaluated) -> None:
    print(table.title)
    headings = [heading for heading, _ in table.columns]
    lines = [headings, *table.rows] if len(headings) > 2 else table.rows
    widths = [max(len(line[place]) for line in lines) for place in range(len(headings))]
    for line in lines:
        figures = "  ".join(value.rjust(width) for value, width in zip(line[1:], widths[1:], strict=True))
        print(f"  {line[0].ljust(widths[0])}  {figures}")
    print(f"  {table.protocol}")
