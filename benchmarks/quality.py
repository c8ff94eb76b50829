"""Perplexity of combinations of score, layers, rows and solver on a real model: python -m benchmarks.quality.

One row for each method, sparsity and number of calibration sequences. What the result file has already, by the same
recipe, is not measured again, so that a long grid may be stopped and gone on with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import benchmarks.row_variants  # noqa: F401  (registers them)
from benchmarks.about import about
from benchmarks.combinations import chosen
from benchmarks.quality_file import Protocol, QualityFile, split
from benchmarks.quality_report import plot, table
from benchmarks.result_file import FOLDER, slug
from trim_prune import Recipe, load_model, perplexity, prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model
from trim_prune.models.device import choose_device

METHODS: Mapping[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "Wanda": {"preset": "wanda"},
    "RIA": {"score": "ria", "rows": "uniform"},
    "Wanda + OWL": {"preset": "wanda", "layers": "owl"},
    "TRIM": {"preset": "trim"},
    "TRIM + OWL": {"preset": "trim", "layers": "owl"},
    "Wanda, optimal rows": {"score": "wanda", "rows": "optimal"},
    "Wanda + OWL, optimal rows": {"score": "wanda", "layers": "owl", "rows": "optimal"},
    "Wanda, optimal rows and layers": {"score": "wanda", "layers": "optimal", "rows": "optimal"},
    "Wanda, optimal rows, swaps": {"score": "wanda", "rows": "optimal", "solver": "swaps"},
    "SparseGPT": {"preset": "sparsegpt"},
    "SparseGPT + OWL": {"preset": "sparsegpt", "layers": "owl"},
    "SparseGPT + DLP": {"preset": "sparsegpt", "layers": "dlp"},
    "ALPS": {"score": "obs", "rows": "whole", "solver": "alps"},
    "best": {"preset": "best"},
}


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
    device = choose_device("auto")
    names = methods.split(";") if methods else [] if also else list(METHODS)
    amounts = {"seqlen": seqlen, "batch_size": batch_size}
    wanted = [
        (method, Recipe.build({**choices} | amounts | {"sparsity": float(sparsity), "samples": int(count)}))
        for count in samples.split(",")
        for sparsity in sparsities.split(",")
        for method, choices in chosen(names, also or [], METHODS).items()
    ]
    quiet_libraries()
    console = Console(width=140)
    source = model or find_model()
    calibration, held_out = split(text)
    name = source.name.removesuffix(".gguf")
    protocol = Protocol(name, held_out.name, dtype, seqlen, windows, window)
    path = out or FOLDER / f"quality-{slug(name)}-{slug(text.stem) if text else 'python-help'}.json"
    file = QualityFile(path, about(device.type), protocol)
    loaded = load_model(source, dtype=dtype)
    loaded.model.to(device)
    # On the host, so that several processes find room on one device.
    dense = {name: weight.to("cpu", copy=True) for name, weight in loaded.model.state_dict().items()}

    def judge() -> float:
        return perplexity(loaded.model, loaded.tokenizer, held_out, seqlen=window, max_windows=windows).perplexity

    if "dense_perplexity" not in file.content:
        file.put("dense_perplexity", judge())
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
        )
        file.add(asdict(row))
        told = f"{method}, {recipe.sparsity:.0%}, {recipe.samples} x {seqlen}: {found:.2f} ({seconds:.0f} s)"
        console.print(told, highlight=False)
    console.print(table(file.content))
    file.path.with_suffix(".md").write_text(table(file.content), encoding="utf-8")
    plot(file.content, file.path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
