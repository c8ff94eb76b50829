"""A run as its folder tells it: run.json, read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_facts import read_facts

Linear = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The folder of a pruned model, what to call it, and the facts in its run.json."""

    folder: Path
    name: str
    facts: dict[str, Any]

    @property
    def model(self) -> str:
        """What to call the dense model: its hub id, or the last part of its path."""
        name = str(self.facts["model"])
        return name if self.facts.get("hub_id") else re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe, as plain values."""
        return dict(self.facts["recipe"])

    @property
    def structured(self) -> bool:
        """Whether whole heads and channels went, and not single weights."""
        return "parts" in self.facts

    @property
    def linears(self) -> list[Linear]:
        """What is known of each linear, in the order of the blocks."""
        return list(self.facts["linears"])

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What ``trim-prune evaluate`` has measured of it since."""
        return list(self.facts.get("evaluations", []))

    def blocks(self) -> Iterator[tuple[int, list[Linear]]]:
        """The linears of each block."""
        for number in sorted({linear["block"] for linear in self.linears}):
            yield number, [linear for linear in self.linears if linear["block"] == number]


def read_run(folder: Path, name: str | None = None) -> Run:
    """The run of a folder, called by the name of it unless another is given; errors as of :func:`read_facts`."""
    return Run(folder, name or folder.absolute().name, read_facts(folder))


def kind_of(linear: Linear) -> str:
    """What a linear is in its block: ``self_attn.q_proj`` of ``model.layers.3.self_attn.q_proj``.

    The experts of a mixture are of one kind: ``mlp.experts.*.up_proj``.
    """
    before, number, after = linear["name"].partition(f".{linear['block']}.")
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", after if number else before)


def short_names(kinds: Iterable[str]) -> dict[str, str]:
    """The last part of each kind where no two have the same, otherwise all of it."""
    kinds = list(dict.fromkeys(kinds))
    last = [kind.rpartition(".")[2] for kind in kinds]
    return dict(zip(kinds, last if len(set(last)) == len(last) else kinds, strict=True))


def share(linears: Iterable[Linear]) -> float:
    """The pruned share of the weights of some linears together."""
    linears = list(linears)
    return int(sum(linear["prune_count"] for linear in linears)) / sum(_size(linear) for linear in linears)


def mean_of(linears: Iterable[Linear], key: str) -> float | None:
    """The mean of what is known of some linears; None if nothing is."""
    values = [linear[key] for linear in linears if linear.get(key) is not None]
    return sum(values) / len(values) if values else None


def _size(linear: Linear) -> int:
    rows, columns = linear["shape"]
    return int(rows * columns)
