"""Perplexity of combinations of score, layers, rows and solver on a real model: python -m benchmarks.quality.

One row for each method, sparsity and number of calibration sequences. What the result file has already, by the same
recipe, is not measured again, so that a long grid may be stopped and gone on with.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import benchmarks.row_variants  # noqa: F401  (registers them)
from benchmarks.about import about
from benchmarks.quality_report import plot, table
from benchmarks.result_file import FOLDER, slug
from trim_prune import Recipe, load_model, perplexity, prune
from trim_prune.calibration.text import Text, open_text
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model, split_topics

METHODS: Mapping[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "Wanda": {"preset": "wanda"},
    "RIA": {"score": "ria", "rows": "uniform"},
    "Wanda + OWL": {"preset": "wanda", "layers": "owl"},
    "TRIM": {"preset": "trim"},
    "TRIM + OWL": {"preset": "trim", "layers": "owl"},
    "Wanda, optimal rows": {"score": "wanda", "rows": "optimal"},
    "Wanda + OWL, optimal rows": {"score": "wanda", "layers": "owl", "rows": "optimal"},
    "Wanda, optimal rows, swaps": {"score": "wanda", "rows": "optimal", "solver": "swaps"},
    "SparseGPT": {"preset": "sparsegpt"},
    "SparseGPT + OWL": {"preset": "sparsegpt", "layers": "owl"},
    "SparseGPT + DLP": {"preset": "sparsegpt", "layers": "dlp"},
    "ALPS": {"score": "obs", "rows": "whole", "solver": "alps"},
    "best": {"preset": "best"},
}
CALIBRATION_SHARE = 0.6
"""Of the characters of the text: the windows that judge come from the rest."""


@dataclass(frozen=True)
class Row:
    """One pruned model by a whole recipe; ``seconds`` without loading and evaluation."""

    method: str
    recipe: dict[str, Any]
    sparsity: float
    samples: int
    pruned: int
    prunable_weights: int
    perplexity: float
    ratio_to_dense: float
    seconds: float
    steps: dict[str, int]
    commit: str


@dataclass(frozen=True)
class Protocol:
    """What all rows of a file have in common; rows of unlike protocols cannot be compared."""

    model: str
    text: str
    dtype: str
    seqlen: int
    windows: int
    window: int


def main(
    model: Annotated[
        Path | None, typer.Argument(help="Model folder or .gguf file; none: SmolLM2-135M-Instruct.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help=".txt or .jsonl; none: Python's help texts.")] = None,
    methods: Annotated[str, typer.Option(help="Names, semicolon between them; none: all.")] = "",
    also: Annotated[
        list[str] | None, typer.Option(help="NAME={...}: one more combination, its recipe as JSON; may be repeated.")
    ] = None,
    sparsities: Annotated[str, typer.Option(help="Shares of the weights, comma between them.")] = "0.5,0.6,0.7,0.8",
    samples: Annotated[str, typer.Option(help="Calibration sequences, comma between them.")] = "32,128",
    seqlen: Annotated[int, typer.Option(help="Tokens of each.")] = 256,
    windows: Annotated[int, typer.Option(help="Windows that judge.")] = 16,
    window: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sequences per forward.")] = 4,
    out: Annotated[Path | None, typer.Option(help="JSON file; the table and the plot go beside it.")] = None,
) -> None:
    """Measure a grid of combinations."""
    machine = about("cpu")
    amounts = {"seqlen": seqlen, "batch_size": batch_size}
    wanted = [
        (method, Recipe.build(choices | amounts | {"sparsity": float(sparsity), "samples": int(count)}))
        for count in samples.split(",")
        for sparsity in sparsities.split(",")
        for method, choices in _chosen(methods, also or []).items()
    ]
    quiet_libraries()
    console = Console(width=140)
    source = model or find_model()
    calibration, held_out = split_topics() if text is None else split(text)
    name = source.name.removesuffix(".gguf")
    protocol = Protocol(name, held_out.name, dtype, seqlen, windows, window)
    path = out or FOLDER / f"quality-{slug(name)}-{slug(text.stem) if text else 'python-help'}.json"
    file = _File(path, machine, protocol)
    loaded = load_model(source, dtype=dtype)
    dense = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}

    def judge() -> float:
        return perplexity(loaded.model, loaded.tokenizer, held_out, seqlen=window, max_windows=windows).perplexity

    file.dense(judge())
    for method, recipe in wanted:
        if file.has(method, recipe):
            continue
        loaded.model.load_state_dict(dense)
        start = time.perf_counter()
        result = prune(loaded.model, recipe, calibration, tokenizer=loaded.tokenizer)
        seconds = time.perf_counter() - start
        found = judge()
        steps = [step for linear in result.linears for step in linear.steps]
        row = Row(
            method=method,
            recipe=recipe.model_dump(mode="json"),
            sparsity=recipe.sparsity,
            samples=recipe.samples,
            pruned=result.sparsity.pruned,
            prunable_weights=result.sparsity.prunable_weights,
            perplexity=found,
            ratio_to_dense=found / file.content["dense_perplexity"],
            seconds=seconds,
            steps={step: steps.count(step) for step in sorted(set(steps))},
            commit=str(machine["commit"]),
        )
        file.add(row)
        told = f"{method}, {recipe.sparsity:.0%}, {recipe.samples} x {seqlen}: {found:.2f} ({seconds:.0f} s)"
        console.print(told, highlight=False)
    console.print(table(file.content))
    file.path.with_suffix(".md").write_text(table(file.content), encoding="utf-8")
    plot(file.content, file.path.with_suffix(".png"))


def _chosen(methods: str, also: list[str]) -> dict[str, dict[str, Any]]:
    """The recipe of each combination that is to be measured, without sparsity and amounts."""
    names = methods.split(";") if methods else [] if also else list(METHODS)
    for name in names:
        if name not in METHODS:
            raise SystemExit(f"unknown method {name!r}: known are {', '.join(METHODS)}")
    return {name: METHODS[name] for name in names} | dict(map(_named, also))


def _named(text: str) -> tuple[str, dict[str, Any]]:
    name, _, recipe = text.partition("=")
    try:
        values = json.loads(recipe)
    except json.JSONDecodeError:
        values = None
    if not name or not isinstance(values, dict):
        raise SystemExit(f'--also: expected NAME={{"score": "wanda", ...}}, got {text!r}')
    return name, values


class _File:
    """The rows so far, whole after each of them."""

    def __init__(self, path: Path, machine: Mapping[str, Any], protocol: Protocol) -> None:
        self.path = path
        self.content: dict[str, Any] = {"machine": machine, "protocol": asdict(protocol), "rows": []}
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if earlier["protocol"] != asdict(protocol):
                raise SystemExit(f"{path} holds rows of another protocol, {earlier['protocol']}: give another --out")
            self.content["rows"] = earlier["rows"]

    def dense(self, perplexity: float) -> None:
        self.content["dense_perplexity"] = perplexity

    def has(self, method: str, recipe: Recipe) -> bool:
        return any((row["method"], Recipe.build(row["recipe"])) == (method, recipe) for row in self._rows)

    def add(self, row: Row) -> None:
        self._rows.append(asdict(row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)

    @property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows


def split(file: Path) -> tuple[list[str], Text]:
    """The text in two, cut between words: what calibrates, and what judges."""
    text = "\n".join(open_text(file).documents)
    cut = re.compile(r"\s").search(text, int(CALIBRATION_SHARE * len(text)))
    if cut is None:
        raise SystemExit(f"{file}: too little text to judge by")
    at = cut.end()
    return [text[:at]], Text(f"{file.name}, the last {1 - CALIBRATION_SHARE:.0%}", [text[at:]])


if __name__ == "__main__":
    typer.run(main)
