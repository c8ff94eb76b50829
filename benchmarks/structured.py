"""What structured pruning costs and gains, part by part, on a real model: python -m benchmarks.structured.

SlimLLM with each of its parts switched off in turn, and the baselines that judge units by magnitude or by Wanda's
scores. What the result file has already, by the same recipe, is not measured again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import peak_memory
from benchmarks.about import about
from benchmarks.combinations import chosen
from benchmarks.quality_file import Protocol, QualityFile, split
from benchmarks.result_file import FOLDER, slug
from benchmarks.structured_table import table
from trim_prune import StructuredRecipe, StructuredResult, TrimPruneError, load_model, perplexity, prune
from trim_prune.cli.quiet import quiet_libraries
from trim_prune.demo import find_model
from trim_prune.models.capture import PROBE_TOKENS
from trim_prune.models.device import choose_device
from trim_prune.structured.speed import tokens_per_second

BURSTS, BURST = 8, 8
"""Bursts of decoding, and tokens of each, that measure speed."""
PLAIN = {"layers": "uniform", "repair": "none"}
METHODS: Mapping[str, dict[str, Any]] = {
    "SlimLLM": {"preset": "slimllm"},
    "repair full": {"preset": "slimllm", "repair": "full"},
    "no repair": {"preset": "slimllm", "repair": "none"},
    "layers uniform": {"preset": "slimllm", "layers": "uniform"},
    "heads by magnitude": {"preset": "slimllm", "heads": "magnitude"},
    "heads without swaps": {"preset": "slimllm", "pearson": {"swaps": False}},
    "channels without directions": {"preset": "slimllm", "feature": {"weighting": False}},
    "lowest 1% of channels stay": {"preset": "slimllm", "feature": {"keep_lowest": 0.01}},
    "channel terms alike": {"preset": "slimllm", "feature": {"normalise": True}},
    "heads stay": {"preset": "slimllm", "heads": "none"},
    "obs, repair full": {
        "preset": "slimllm",
        "heads": "obs",
        "channels": "obs",
        "repair": "full",
    },
    "mode uniform": {"preset": "slimllm", "mode": "uniform"},
    "mode uniform, repair full": {"preset": "slimllm", "mode": "uniform", "repair": "full"},
    "mode uniform, obs, repair full": {
        "preset": "slimllm",
        "mode": "uniform",
        "heads": "obs",
        "channels": "obs",
        "repair": "full",
    },
    "magnitude": PLAIN | {"heads": "magnitude", "channels": "magnitude"},
    "Wanda": PLAIN | {"heads": "wanda", "channels": "wanda"},
}


@dataclass(frozen=True)
class Contexts(Protocol):
    """Two lengths of window over about the same text: ``windows`` of ``window`` tokens, and longer ones."""

    long_windows: int
    long_window: int


@dataclass(frozen=True)
class Row:
    """One pruned model.

    ``speed``: tokens per second when decoding, the most of several bursts; ``speedup``: times as many as the dense
    model, whose bursts take turns with them. ``seconds`` of the prune without loading, measuring speed and judging;
    ``memory``: the most bytes in use during it beyond the model. ``kv_groups`` and ``channels`` of blocks that lost
    some. ``error``: of the outputs of all pruned parts in mean, before and after repair.
    """

    method: str
    recipe: dict[str, Any]
    params: float
    parameters: int
    dense_parameters: int
    perplexity: float
    long_perplexity: float
    ratio_to_dense: float
    long_ratio_to_dense: float
    speed: float
    speedup: float
    seconds: float
    memory: int
    kv_groups: list[int]
    channels: list[int]
    error: list[float | None]


def main(
    model: Annotated[
        Path | None, typer.Argument(help="Model folder or .gguf file; none: SmolLM2-135M-Instruct.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help=".txt or .jsonl; none: Python's help texts.")] = None,
    methods: Annotated[str, typer.Option(help="Names, semicolon between them.")] = ";".join(METHODS),
    also: Annotated[
        list[str] | None, typer.Option(help="NAME={...}: one more method, its recipe as JSON; may be repeated.")
    ] = None,
    params: Annotated[str, typer.Option(help="Shares of the parameters that stay, comma between them.")] = "0.8,0.5",
    samples: Annotated[str, typer.Option(help="Calibration sequences, comma between them.")] = "32",
    seqlen: Annotated[int, typer.Option(help="Tokens of each.")] = 128,
    windows: Annotated[int, typer.Option(help="Windows of 128 tokens that judge.")] = 32,
    long_windows: Annotated[int, typer.Option(help="Windows of 2048 tokens that judge.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Sequences per forward.")] = 8,
    out: Annotated[Path | None, typer.Option(help="JSON file; the table goes beside it.")] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window.")] = 128,
    long_window: Annotated[int, typer.Option(help="Tokens of a long window.")] = 2048,
) -> None:
    """Measure a grid of structured prunes."""
    device = choose_device("auto")
    names = [name for name in methods.split(";") if name]
    amounts = {"seqlen": seqlen, "batch_size": batch_size}
    wanted = [
        (method, StructuredRecipe.build({**choices} | amounts | {"params": float(share), "samples": int(count)}))
        for count in samples.split(",")
        for share in params.split(",")
        for method, choices in chosen(names, also or [], METHODS).items()
    ]
    quiet_libraries()
    console = Console(width=140)
    source = model or find_model()
    calibration, held_out = split(text)
    name = source.name.removesuffix(".gguf")
    path = out or FOLDER / f"structured-{slug(name)}-{slug(text.stem) if text else 'python-help'}.json"
    protocol = Contexts(name, held_out.name, dtype, seqlen, windows, window, long_windows, long_window)
    file = QualityFile(path, about(device.type), protocol)
    loaded = load_model(source, dtype=dtype)
    loaded.model.to(device)

    def judge(model: Any) -> list[float]:
        return [
            perplexity(model, loaded.tokenizer, held_out, seqlen=length, max_windows=count).perplexity
            for count, length in ((windows, window), (long_windows, long_window))
        ]

    if "dense_perplexity" not in file.content:
        dense, long_dense = judge(loaded.model)
        file.put("dense_perplexity", dense)
        file.put("dense_long_perplexity", long_dense)
    for method, recipe in wanted:
        if file.has(method, recipe):
            continue
        smaller = copy.deepcopy(loaded.model)
        before, start = in_use(device), time.perf_counter()
        try:
            result = prune(smaller, recipe, calibration, tokenizer=loaded.tokenizer)
        except TrimPruneError as error:
            # Such as a regression that needs more tokens; the other rows do not.
            console.print(f"{method}, {recipe.params:.0%}: {error}", highlight=False, markup=False)
            continue
        seconds = time.perf_counter() - start - result.timings["speed"]
        memory = most_in_use(device) - before
        found, long_found = judge(smaller)
        speed, dense_speed = speeds(smaller, loaded.model)
        row = Row(
            method=method,
            recipe=recipe.model_dump(mode="json"),
            params=recipe.params or 0.0,
            parameters=result.parameters.pruned,
            dense_parameters=result.parameters.dense,
            perplexity=found,
            long_perplexity=long_found,
            ratio_to_dense=found / file.content["dense_perplexity"],
            long_ratio_to_dense=long_found / file.content["dense_long_perplexity"],
            speed=speed,
            speedup=speed / dense_speed,
            seconds=seconds,
            memory=memory,
            kv_groups=_kept(result, "attention"),
            channels=_kept(result, "feed-forward"),
            error=_errors(result),
        )
        file.add(asdict(row))
        told = f"{method}, {recipe.params:.0%}, {recipe.samples} x {seqlen}"
        console.print(f"{told}: {found:.2f}, {long_found:.2f} ({seconds:.0f} s)", highlight=False)
    console.print(table(file.content))
    file.path.with_suffix(".md").write_text(table(file.content), encoding="utf-8")


def in_use(device: torch.device) -> int:
    """Bytes in use now, from when on the most is watched."""
    if device.type == "cpu":
        return peak_memory.start()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def most_in_use(device: torch.device) -> int:
    """The most bytes in use since then."""
    if device.type == "cpu":
        return peak_memory.kilobytes("VmHWM") * 1024
    return torch.cuda.max_memory_allocated(device)


def speeds(*models: Any) -> list[float]:
    """The most tokens per second of each model in bursts that take turns: other load on the machine only slows."""
    prompt = torch.arange(PROBE_TOKENS)[None]
    bursts = [[tokens_per_second(model, prompt, BURST) for model in models] for _ in range(BURSTS)]
    return [max(found) for found in zip(*bursts, strict=True)]


def _kept(result: StructuredResult, kind: str) -> list[int]:
    """Of blocks that lost some."""
    return [len(part.kept) for part in result.parts if part.kind == kind]


def _errors(result: StructuredResult) -> list[float | None]:
    pairs = [(part.error, part.repaired_error) for part in result.parts]
    return [
        None if any(value is None for value in values) else sum(value for value in values if value) / len(values)
        for values in zip(*pairs, strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
