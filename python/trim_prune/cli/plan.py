"""trim-prune plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..estimate.plan import plan as run_plan
from ..estimate.plan import to_json
from ..estimate.report import print_forecast
from .choices import OUTPUT, Chosen, takes_recipe
from .quiet import quiet_libraries


@takes_recipe
def plan(
    model: Annotated[str, typer.Argument(help="Model folder, or hub id such as org/name.")],
    chosen: Chosen,
    out: Annotated[
        Path, typer.Option(help="Folder for the pruned model, whose disk counts.", rich_help_panel=OUTPUT)
    ] = Path("pruned"),
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what a prune with the same choices would do, take and cost; no weight is read.

    [bold]Examples[/bold]

    trim-prune plan meta-llama/Llama-3.2-1B --preset best --sparsity 0.7

    trim-prune plan ./model --recipe recipe.yaml --samples 256 --json

    trim-prune plan ./model --preset slimllm --params 0.8

    How many weights of each block go, to the weight; which bytes lie where at the highest moment of the run; what is
    written; and, from a calibration of two seconds, about how long it takes. What a prune would refuse is refused here.
    """
    quiet_libraries()
    forecast = run_plan(model, chosen.recipe, out=out, trust_remote_code=trust_remote_code)
    if as_json:
        print(json.dumps(to_json(forecast)))
    else:
        print_forecast(Console(), forecast)
