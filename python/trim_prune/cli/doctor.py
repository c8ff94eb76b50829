"""trim-prune doctor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from trim_kernels import machine


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Tell what is usable on this machine, and why not.

    Python, torch, the GPUs, each backend of the kernels, fastest first, and the compilers; one line each.
    """
    facts = machine.doctor()
    print(json.dumps(facts) if as_json else machine.report(facts))
