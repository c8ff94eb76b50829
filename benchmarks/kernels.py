"""Microbenchmarks: every operation and backend over the linears of real models.

    python -m benchmarks.kernels [--device cuda] [--ops row_mask,allocate_rows] [--out FILE.json]

Each result is checked against the reference before anything is timed. A baseline is the same work in plain torch. All
implementations of a case take turns; figures are medians, ratios are within one case. The floor is the least time for
the bytes and operations that no implementation can avoid, at the rates that this machine shows in the same run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, TOKENS, Case, Problem, make_problem
from benchmarks.data import linear_like
from benchmarks.measure import Limits, machine, medians
from benchmarks.shapes import LINEARS, Linear
from trim_kernels.backends import MODULES, decide

OPS = [case.op for case in CASES]


@dataclass(frozen=True)
class Figure:
    """One operation, backend and matrix. Times in milliseconds, ratios above 1 mean faster than the other."""

    op: str
    backend: str
    linear: str
    rows: int
    columns: int
    dtype: str
    milliseconds: float
    times_reference: float
    times_baseline: float
    baseline: str
    floor_milliseconds: float
    peak_bytes: int | None


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    ops: Annotated[str, typer.Option(help="Comma-separated operations.")] = ",".join(OPS),
    budget: Annotated[float, typer.Option(help="Seconds of measuring per case.")] = 2.0,
    out: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Run the microbenchmarks."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter(f"{device!r}: torch finds no GPU on this machine", param_hint="--device")
    console = Console(width=150)
    limits = Limits(device)
    figures: list[Figure] = []
    for case in (case for case in CASES if case.op in ops.split(",")):
        found = []
        for linear in LINEARS:
            weight, inputs, column_scale = linear_like(
                linear.rows, linear.columns, TOKENS, dtype=getattr(torch, dtype), device=device
            )
            problem = make_problem(weight, inputs, column_scale)
            found += _measure(case, linear, problem, limits, device, budget)
        console.print(_table(case, found))
        figures += found
    about = machine(device) | {
        "tokens": TOKENS,
        "gigabytes_per_second": limits.bytes_per_second / 1e9,
        "gigaflops": limits.operations_per_second / 1e9,
    }
    console.print(about)
    out = out or Path(__file__).parent / "results" / f"kernels-{torch.device(device).type}.json"
    text = json.dumps({"machine": about, "figures": [asdict(figure) for figure in figures]}, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    console.print(f"written to {out}")


def _measure(case: Case, linear: Linear, problem: Problem, limits: Limits, device: str, budget: float) -> list[Figure]:
    backends = [name for name in MODULES if _runs(case.op, name, problem)]
    expected = case.run(problem, "reference")
    for backend in backends:
        if backend != "reference":
            case.check(case.run(problem, backend), expected)
    case.check(case.baseline(problem), expected)
    calls: dict[str, Callable[[], object]] = {name: lambda b=name: case.run(problem, b) for name in backends}  # type: ignore[misc]
    calls["baseline"] = lambda: case.baseline(problem)
    times = medians(calls, device, budget)
    return [
        Figure(
            op=case.op,
            backend=backend,
            linear=linear.name,
            rows=linear.rows,
            columns=linear.columns,
            dtype=str(problem.weight.dtype).removeprefix("torch."),
            milliseconds=times[backend] * 1e3,
            times_reference=times["reference"] / times[backend],
            times_baseline=times["baseline"] / times[backend],
            baseline=case.baseline_name,
            floor_milliseconds=case.floor(problem, limits) * 1e3,
            peak_bytes=_peak(linear, backend) if case.op == "allocate_rows" and device == "cpu" else None,
        )
        for backend in backends
    ]


def _runs(op: str, backend: str, problem: Problem) -> bool:
    try:
        decide(op, backend, {"weight": problem.weight})
    except ValueError:
        return False
    return True


def _peak(linear: Linear, backend: str) -> int:
    command = [sys.executable, "-m", "benchmarks.peak_memory", str(linear.rows), str(linear.columns), backend]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _table(case: Case, figures: list[Figure]) -> Table:
    with_peak = any(figure.peak_bytes is not None for figure in figures)
    table = Table(title=f"{case.op}; baseline: {case.baseline_name}", title_justify="left")
    table.add_column("linear")
    headings = ["rows", "columns", "backend", "median ms", "x reference", "x baseline", "floor ms", "x floor"]
    for heading in [*headings, *(["peak / float32 weight"] if with_peak else [])]:
        table.add_column(heading, justify="right")
    for figure in figures:
        cells = [
            figure.linear,
            str(figure.rows),
            str(figure.columns),
            figure.backend,
            f"{figure.milliseconds:.2f}",
            f"{figure.times_reference:.1f}",
            f"{figure.times_baseline:.1f}",
            f"{figure.floor_milliseconds:.2f}",
            f"{figure.milliseconds / figure.floor_milliseconds:.1f}",
        ]
        if figure.peak_bytes is not None:
            cells.append(f"{figure.peak_bytes / (4 * figure.rows * figure.columns):.2f}")
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    typer.run(main)
