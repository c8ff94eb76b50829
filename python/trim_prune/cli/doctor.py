"""trim-prune doctor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..health import doctor as examine
from ..health import report


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Tell what is usable on this machine, what is missing, and the command that repairs it.

    Python, torch, the GPUs, each backend of the kernels, fastest first, the compilers, and the packages of each extra;
    one line each.
    """
    facts = examine()
    print(json.dumps(facts) if as_json else report(facts))
