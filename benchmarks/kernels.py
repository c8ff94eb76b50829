"""Microbenchmarks: every operation and backend over the linears of real models.

    python -m benchmarks.kernels [--device cuda] [--headlines] [--missing] [--ops row_mask,gram_]
                                 [--shapes 5120x5120,4096x4096] [--out FILE.json]

No result is timed that does not pass its check against the reference. A baseline is the same work in plain torch.
Figures are medians; benchmarks/README.md tells how they come about. Needs nothing but torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.about import about
from benchmarks.cases import CASES, HEADLINES, Case
from benchmarks.figures import Figure
from benchmarks.limits import Limits
from benchmarks.measure import Bench, measure
from benchmarks.problems import SEQUENCE, TOKENS
from benchmarks.result_file import FOLDER, ResultFile, slug
from benchmarks.shapes import CPU_LINEARS, GPU_LINEARS, HEADLINE, Linear
from benchmarks.tables import table

BUDGET = {"cpu": 2.0, "cuda": 0.2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the microbenchmarks; 1 if a result is wrong, 2 if the device is lost."""
    parser = _parser()
    options = parser.parse_args(arguments)
    kind = torch.device(options.device).type
    if kind == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch finds no GPU on this machine")
    unknown = set(options.ops) - {case.op for case in CASES}
    if unknown:
        parser.error(f"--ops: expected some of {', '.join(_ops())}, got {', '.join(sorted(unknown))}")
    unlike = set(options.shapes or ()) - _shapes(kind)
    if unlike:
        parser.error(f"--shapes: expected some of {', '.join(sorted(_shapes(kind)))}, got {', '.join(sorted(unlike))}")
    if torch.device(options.device).index is not None:
        torch.cuda.set_device(options.device)
    facts = about(options.device)
    results = ResultFile(options.out or _path(kind, str(facts["device"])), facts, go_on=options.missing)
    default = "bfloat16" if kind == "cuda" else "float32"
    dtype = getattr(torch, options.dtype or default)
    limits = Limits.of_gpu(options.device, dtype) if kind == "cuda" else Limits.of_cpu()
    _say_limits(limits, results)
    bench = Bench(options.device, dtype, limits, options.budget or BUDGET[kind])
    code = 0
    for case in HEADLINES if options.headlines else CASES:
        if case.op in options.ops:
            linears = _linears(case, kind, headlines=options.headlines)
            chosen = [linear for linear in linears if options.shapes is None or _shape(linear) in options.shapes]
            code = max(code, _run(case, chosen, bench, results))
    print(f"written to {results.path}", flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description="Times every operation.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--ops", type=lambda text: text.split(","), default=_ops(), help="comma-separated operations")
    parser.add_argument(
        "--shapes", type=lambda text: text.split(","), help="as 5120x5120, comma-separated; tokens by columns for sums"
    )
    parser.add_argument("--headlines", action="store_true", help="the most important cases at 5120 x 5120 only")
    parser.add_argument("--missing", action="store_true", help="only what FILE has not of this machine and commit")
    parser.add_argument("--budget", type=float, help="seconds of a case (CPU), or of one implementation (GPU)")
    parser.add_argument("--out", type=Path, help="JSON file (default: in benchmarks/results)")
    return parser


def _ops() -> list[str]:
    return list(dict.fromkeys(case.op for case in CASES))


def _path(kind: str, device: str) -> Path:
    return FOLDER / ("kernels-cpu.json" if kind == "cpu" else f"{slug(device)}.json")


def _linears(case: Case[Any], kind: str, *, headlines: bool) -> list[Linear]:
    """The matrices; of a case of activations, one of each width, as tokens."""
    linears = [HEADLINE] if headlines else list(GPU_LINEARS if kind == "cuda" else CPU_LINEARS)
    if not case.of_activations:
        return linears
    widths: dict[int, Linear] = {}
    for linear in linears:
        widths.setdefault(linear.columns, Linear(linear.name, SEQUENCE, linear.columns))
    return list(widths.values())


def _shapes(kind: str) -> set[str]:
    return {_shape(linear) for case in CASES for linear in _linears(case, kind, headlines=False)}


def _shape(linear: Linear) -> str:
    return f"{linear.rows}x{linear.columns}"


def _say_limits(limits: Limits, results: ResultFile) -> None:
    rates = {
        "gigabytes_per_second": limits.bytes_per_second / 1e9,
        "gigaflops": limits.operations_per_second / 1e9,
        "tokens": TOKENS,
        "sequence": SEQUENCE,
        "time": time.strftime("%H:%M:%S"),
    }
    results.append("limits", rates)
    print(f"limits: {rates['gigabytes_per_second']:.0f} GB/s, {rates['gigaflops']:.0f} GFLOP/s", flush=True)


def _run(case: Case[Any], linears: Sequence[Linear], bench: Bench, results: ResultFile) -> int:
    figures: list[Figure] = []
    code = 0
    for linear in linears:
        if results.has(
            op=case.op, variant=case.variant, rows=linear.rows, columns=linear.columns, dtype=bench.dtype_name
        ):
            continue
        for found in measure(case, linear, bench):
            results.add(found)
            if isinstance(found, Figure):
                figures.append(found)
                continue
            print(f"no figure: {case.name}, {found.backend}, {linear.rows} x {linear.columns}: {found.why}", flush=True)
            code = max(code, int(found.wrong))
            if bench.kind == "cuda" and _lost():
                print("the device is lost; the figures so far are written", flush=True)
                sys.exit(2)
    if figures:
        print(f"\n{case.name}; baseline: {case.baseline_name or 'none'}\n{table(figures)}", flush=True)
    return code


def _lost() -> bool:
    """Whether the last error has made the device useless to this process."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
