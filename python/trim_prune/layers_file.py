"""layers.yaml: how the weights that went were divided among the linears, as a recipe to prune by again."""

from __future__ import annotations

import math
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from .pattern import Pattern
from .results import LinearResult, PruneResult

LAYERS_FILE = "layers.yaml"
_HEAD = """\
# How layers: {method} divided the weights that go among the linears. To prune so again, with any score and solver:
# trim-prune prune MODEL --recipe {file} --score ... --solver ... --data ... --out ...
"""


def write_layers(result: PruneResult, folder: Path) -> None:
    """Write layers.yaml into a folder."""
    head = _HEAD.format(method=result.recipe.layers, file=LAYERS_FILE)
    (folder / LAYERS_FILE).write_text(head + yaml.safe_dump(layers_recipe(result), sort_keys=False), encoding="utf-8")


def layers_recipe(result: PruneResult) -> dict[str, Any]:
    """The part of a recipe that takes from every linear what this run took: table layers with a rule for all of them.

    One rule a block where its linears have one share, otherwise one a linear.
    """
    blocks: dict[int, list[LinearResult]] = {}
    for linear in result.linears:
        blocks.setdefault(linear.block, []).append(linear)
    rules: list[dict[str, Any]] = []
    for linears in blocks.values():
        if len(linears) > 1 and len({_share(linear) for linear in linears}) == 1:
            match = ".".join([*_shared([linear.name.split(".") for linear in linears]), "*"])
            rules.append({"match": match, "sparsity": _share(linears[0])})
        else:
            rules += [{"match": linear.name, "sparsity": _share(linear)} for linear in linears]
    sizes = [math.prod(linear.shape) for linear in result.linears]
    lost = math.fsum(_share(linear) * size for linear, size in zip(result.linears, sizes, strict=True))
    pattern = result.recipe.pattern
    grouped = {} if pattern is None else {"pattern": f"of {pattern.of}"}
    return {"sparsity": lost / sum(sizes), **grouped, "layers": "table", "table": rules}


def _share(linear: LinearResult) -> float:
    """By its pattern, since a shorter last group keeps a little more than its share; else by its count."""
    return linear.sparsity if linear.pattern is None else Pattern.parse(linear.pattern).sparsity


def _shared(paths: list[list[str]]) -> list[str]:
    """The parts that all paths begin with."""
    parts = zip(*paths, strict=False)
    return [same[0] for same in takewhile(lambda part: len(set(part)) == 1, parts)]
