"""trim-prune describe."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..describe import describe as run_describe
from ..describe import report, to_json
from .quiet import quiet_libraries


def describe(
    model: Annotated[str, typer.Argument(help="Model folder, or hub id such as org/name.")],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what a model consists of and what a prune would touch; no weight is read.

    Blocks, the linears in them, which of those share an input, tied parameters, and what stays dense: matrices of the
    blocks outside linears, and other towers. Of a hub id only the configuration and the index are downloaded.
    """
    quiet_libraries()
    found = run_describe(model, trust_remote_code=trust_remote_code)
    print(json.dumps(to_json(found)) if as_json else report(found))
