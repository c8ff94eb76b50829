"""What MSP gains at 75% and what it costs, on a real model: python -m benchmarks.msp.

For magnitude, Wanda and SparseGPT as base: uniform patterns, OWL mapped to patterns, the first vectors of MSP,
evolution from random vectors, and the whole of MSP. And how long a candidate takes, beside a masked copy of the model.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.about import about
from benchmarks.msp_speed import measure_candidates
from benchmarks.msp_table import table
from benchmarks.quality_file import Protocol, QualityFile, split
from benchmarks.result_file import FOLDER, slug
from trim_prune import Event, Recipe, load_model, perplexity, prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model
from trim_prune.memory import BodyPeak
from trim_prune.models.device import choose_device
from trim_prune.msp.levels import search_score

SPARSITY, OF = 0.75, 8
BASES: Mapping[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude"},
    "Wanda": {"score": "wanda"},
    "SparseGPT": {"score": "obs", "solver": "sparsegpt"},
}
METHODS: Mapping[str, dict[str, Any]] = {
    "uniform": {"layers": "uniform"},
    "OWL": {"layers": "owl"},
    "sensitivities only": {"layers": "msp", "msp": {"rounds": 1, "generations": 0}},
    "evolution from random": {"layers": "msp", "msp": {"sensitivity": "none"}},
    "MSP": {"layers": "msp"},
}


@dataclass(frozen=True)
class Row:
    """One pruned model.

    ``seconds`` of the sequential prune alone, ``keeps`` of each block; ``memory``: the most bytes that the process, or
    the GPU, had in use while the row was made, search included where it was not an earlier row's.
    """

    method: str
    recipe: dict[str, Any]
    pruned: int
    prunable_weights: int
    perplexity: float
    ratio_to_dense: float
    seconds: float
    search_seconds: float
    evaluations: int
    evaluations_per_second: float
    keeps: list[int]
    memory: int | None


def main(
    model: Annotated[
        Path | None, typer.Argument(help="Model folder or .gguf file; none: SmolLM2-135M-Instruct.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help=".txt or .jsonl; none: Python's help texts.")] = None,
    bases: Annotated[str, typer.Option(help="Names, semicolon between them.")] = ";".join(BASES),
    methods: Annotated[
        str, typer.Option(help="Names, semicolon between them; empty: only what a candidate takes.")
    ] = ";".join(METHODS),
    msp: Annotated[str, typer.Option(help="Options of the searches, as JSON.")] = "{}",
    samples: Annotated[int, typer.Option(help="Calibration sequences.")] = 32,
    seqlen: Annotated[int, typer.Option(help="Tokens of each.")] = 256,
    windows: Annotated[int, typer.Option(help="Windows that judge.")] = 16,
    window: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "bfloat16",
    batch_size: Annotated[int, typer.Option(help="Sequences per forward.")] = 8,
    out: Annotated[Path | None, typer.Option(help="JSON file; the table goes beside it.")] = None,
) -> None:
    """Measure what MSP gains and costs."""
    device = choose_device("auto")
    amounts = {"samples": samples, "seqlen": seqlen, "batch_size": batch_size}
    wanted = {
        f"{base}, {method}": _recipe(BASES[base] | METHODS[method], json.loads(msp), amounts)
        for base in bases.split(";")
        for method in methods.split(";")
        if method
    }
    quiet_libraries()
    console = Console(width=140)
    source = model or find_model()
    calibration, held_out = split(text)
    name = source.name.removesuffix(".gguf")
    path = out or FOLDER / f"msp-{slug(name)}-{slug(text.stem) if text else 'python-help'}.json"
    file = QualityFile(path, about(device.type), Protocol(name, held_out.name, dtype, seqlen, windows, window))
    loaded = load_model(source, dtype=dtype)
    loaded.model.to(device)
    dense = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}

    def judge() -> float:
        return perplexity(loaded.model, loaded.tokenizer, held_out, seqlen=window, max_windows=windows).perplexity

    if "dense_perplexity" not in file.content:
        file.put("dense_perplexity", judge())
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as cache:
        # A search found in the user's cache would seem to take no time. Rows share theirs, which the ledger knows.
        os.environ["XDG_CACHE_HOME"] = cache
        for method, recipe in wanted.items():
            if file.has(method, recipe):
                continue
            loaded.model.load_state_dict(dense)
            with BodyPeak(device) as peak:
                result = prune(loaded.model, recipe, calibration, tokenizer=loaded.tokenizer, on_event=ledger)
            found = judge()
            row = Row(
                method=method,
                recipe=recipe.model_dump(mode="json"),
                pruned=result.sparsity.pruned,
                prunable_weights=result.sparsity.prunable_weights,
                perplexity=found,
                ratio_to_dense=found / file.content["dense_perplexity"],
                **ledger.row(recipe, result.timings),
                keeps=_keeps(result.linears),
                memory=peak.bytes,
            )
            file.add(asdict(row))
            console.print(f"{method}: {found:.2f} (search {row.search_seconds:.0f} s)", highlight=False)
    loaded.model.load_state_dict(dense)
    if device.type not in file.content.get("candidates", {}):
        recipe = _recipe(METHODS["MSP"] | BASES["Wanda"], json.loads(msp), amounts)
        took = measure_candidates(loaded, recipe, calibration)
        file.put("candidates", file.content.get("candidates", {}) | {device.type: took})
    console.print(table(file.content))
    file.path.with_suffix(".md").write_text(table(file.content), encoding="utf-8")


def _recipe(choices: dict[str, Any], msp: dict[str, Any], amounts: dict[str, int]) -> Recipe:
    if choices["layers"] == "uniform":
        return Recipe.build(choices | amounts | {"pattern": f"keep {round(OF * (1 - SPARSITY))} of {OF}"})
    if choices["layers"] == "msp":
        choices = choices | {"msp": msp | choices.get("msp", {})}
    return Recipe.build(choices | amounts | {"pattern": f"of {OF}", "sparsity": SPARSITY})


def _keeps(linears: list[Any]) -> list[int]:
    """How many of each group every block keeps, in whole numbers."""
    pruned: dict[int, float] = defaultdict(float)
    sizes: dict[int, int] = defaultdict(int)
    for linear in linears:
        pruned[linear.block] += linear.prune_count
        sizes[linear.block] += math.prod(linear.shape)
    return [round(OF * (1 - pruned[block] / sizes[block])) for block in sorted(sizes)]


class Ledger:
    """What searches took, also where a row takes the search of an earlier one."""

    PHASES = ("ranks", "evolution")

    def __init__(self) -> None:
        self._sensitivity = 0.0
        self._searches: dict[str, tuple[float, int]] = {}
        self._evaluations = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "search":
            self._evaluations = event.data["evaluations"]

    def row(self, recipe: Recipe, timings: Mapping[str, float]) -> dict[str, Any]:
        """The figures of a row that was just pruned."""
        seconds = sum(value for phase, value in timings.items() if phase not in ("sensitivity", *self.PHASES))
        if recipe.layers != "msp":
            return {"seconds": seconds, "search_seconds": 0.0, "evaluations": 0, "evaluations_per_second": 0.0}
        self._sensitivity = max(self._sensitivity, timings.get("sensitivity", 0.0))
        spent = sum(timings.get(phase, 0.0) for phase in self.PHASES)
        key = f"{search_score(recipe)} {recipe.msp}"
        searching, evaluations = self._searches.setdefault(key, (spent, self._evaluations))
        before = self._sensitivity if recipe.msp.sensitivity != "none" else 0.0
        return {
            "seconds": seconds,
            "search_seconds": before + searching,
            "evaluations": evaluations,
            "evaluations_per_second": evaluations / searching,
        }


if __name__ == "__main__":
    typer.run(main)
