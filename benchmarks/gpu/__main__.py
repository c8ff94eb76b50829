"""``make gpu``, or PYTHONPATH=.:python python3 -m benchmarks.gpu [--out FOLDER] [--minutes 8.7].

One command that is useful even if it is stopped: build, the headline figures, the kernels' tests, compute-sanitizer,
the other figures. Writes FOLDER/<device>.json after every figure and every step, and what the steps print to a log
beside it. Needs a GPU and a Python with torch; no network.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.about import about
from benchmarks.gpu.steps import FAILED, Result, Step, run_steps
from benchmarks.result_file import FOLDER, ResultFile, slug
from benchmarks.tables import columns

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".whl"
"""Wheels that were carried to a machine without network."""
SITE = ROOT / "build" / "gpu-site"
"""Where they are unpacked."""
TESTS = "tests/trim_kernels/cuda/test_on_gpu.py"
CHECKS = "tests/trim_kernels/triton/test_interpreted.py"
ENGINE = "tests/trim_prune/test_engine_on_gpu.py"
TOOLKIT = "/usr/local/cuda/bin"
"""Where nvcc and compute-sanitizer are if not in PATH."""
CALIBRATION = ["--samples", "256", "--seqlen", "2048"]
"""Of the whole prune: what the time that is wanted for all blocks is about."""
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""An allocation for each tensor: memcheck then sees where it ends."""


def main() -> int:
    """Run all steps; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Everything that needs a GPU.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results (default: benchmarks/results)")
    parser.add_argument("--minutes", type=float, default=8.7, help="for everything together (default 8.7)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU on this machine")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: ends the step and says how far it came
    os.chdir(ROOT)
    os.environ.update(environment(os.environ))
    facts = about("cuda")
    path = options.out / f"{slug(str(facts['device']))}.json"
    log = path.with_suffix(".log")
    ResultFile(path, facts, go_on=False).write()
    log.unlink(missing_ok=True)
    done: list[Result] = []
    try:
        for result in run_steps(steps(path), 60 * options.minutes, log):
            done.append(result)
            ResultFile(path, facts, go_on=True).put("steps", [asdict(step) for step in done])
    finally:
        print(f"\n{columns([(step.name, step.status, f'{step.seconds:.0f} s', step.summary) for step in done])}")
        print(f"written to {path}", flush=True)
    return int(any(result.status == FAILED for result in done))


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What all steps share: our sources and the carried wheels first, the CUDA toolkit last."""
    paths = [str(ROOT), str(ROOT / "python"), str(SITE), *filter(None, [given.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([given.get("PATH", os.defpath), TOOLKIT]),
        "PYTHONUNBUFFERED": "1",
    }


def steps(results: Path) -> list[Step]:
    """The most important first; the seconds are at most, what one leaves the last ones have."""
    python = sys.executable
    wheels = [str(wheel) for wheel in sorted(WHEELS.glob("*.whl"))]
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") or "xdist" in " ".join(wheels) else []
    # A machine may have pytest-benchmark, whose warnings would be errors here.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", *parallel]
    bench = [python, "-m", "benchmarks.kernels", "--device", "cuda", "--missing", "--out", str(results)]
    whole = [python, "-m", "benchmarks.end_to_end", "qwen2.5-14b", "--blocks", "3", *CALIBRATION, "--device", "cuda"]
    small = [python, "-m", "benchmarks.gpu.sanitize"]
    return [
        Step("wheels", [*install, "--target", str(SITE), *wheels], 60, obstacle=_without(wheels)),
        Step("build", [python, "-m", "benchmarks.gpu.build"], 180),
        Step("doctor", [python, "-m", "trim_kernels.machine"], 30),
        Step("headlines", [*bench, "--headlines"], 110),
        Step(
            "end to end",
            [*whole, "--out", str(results.with_stem(f"end_to_end-{results.stem}"))],
            100,
            obstacle=_without_prune,
        ),
        Step("tests cuda", [*pytest, TESTS, "-k", "not triton"], 60, obstacle=_without_pytest),
        Step("tests engine", [*pytest, ENGINE], 60, obstacle=lambda: _without_pytest() or _without_prune()),
        Step("tests triton", [*pytest, TESTS, CHECKS, "-k", "triton"], 120, obstacle=_without_pytest),
        *[_sanitizer(tool, small) for tool in ("memcheck", "racecheck")],
        Step("figures", bench, 600),
    ]


def _sanitizer(tool: str, command: list[str]) -> Step:
    return Step(
        tool,
        ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *command],
        45,
        environment=UNCACHED,
        obstacle=_without_sanitizer,
        refused="Device not supported",
    )


def _without(wheels: list[str]) -> Callable[[], str | None]:
    return lambda: None if wheels else f"no wheels in {WHEELS}"


def _without_pytest() -> str | None:
    command = [sys.executable, "-c", "import pytest, hypothesis"]
    present = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return None if present else f"pytest or hypothesis is missing: carry their wheels in {WHEELS}"


def _without_prune() -> str | None:
    command = [sys.executable, "-c", "import trim_prune.cli.main, accelerate, transformers"]
    present = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return None if present else f"what trim_prune needs is missing: carry its wheels in {WHEELS}"


def _without_sanitizer() -> str | None:
    return None if shutil.which("compute-sanitizer") else "compute-sanitizer is not installed"


if __name__ == "__main__":
    sys.exit(main())
