"""run.json: everything there is to know about a run."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

import trim_kernels
from trim_kernels.machine import machine

from .calibration.tokens import Calibration
from .events import to_json
from .files import write_atomically
from .models.load import LoadedModel
from .output_error import error_inputs
from .recipe import Recipe
from .results import PruneResult

if TYPE_CHECKING:
    from .memory import PeakMemory
    from .structured.recipe import StructuredRecipe

RUN_FILE = "run.json"
EVENT_FILE = "events.jsonl"
RUN_VERSION = 1


class Run(Protocol):
    """What there is to say about any prune."""

    @property
    def recipe(self) -> Recipe | StructuredRecipe: ...
    @property
    def timings(self) -> dict[str, float]: ...
    @property
    def memory(self) -> PeakMemory: ...
    @property
    def warnings(self) -> list[str]: ...


def write_run(
    result: PruneResult, loaded: LoadedModel, calibration: Calibration | None, device: str, folder: Path
) -> None:
    """Write run.json into a folder."""
    write_facts(describe_run(result, loaded, calibration, device), folder)


def write_facts(facts: dict[str, Any], folder: Path) -> None:
    """Write facts of a run as run.json into a folder."""
    (folder / RUN_FILE).write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")


def describe_run(
    result: PruneResult, loaded: LoadedModel, calibration: Calibration | None, device: str
) -> dict[str, Any]:
    """The facts of a run as plain values."""
    sparsity = result.sparsity
    figures = {
        "sparsity": vars(sparsity)
        | {
            "of_prunable": sparsity.of_prunable,
            "of_non_embedding": sparsity.of_non_embedding,
            "of_all": sparsity.of_all,
        },
        "linears": [vars(linear) | {"sparsity": linear.sparsity} for linear in result.linears],
        "output_error_inputs": error_inputs(result.recipe.needs),
    }
    return describe(result, figures, loaded, calibration, device)


def describe(
    run: Run, figures: dict[str, Any], loaded: LoadedModel, calibration: Calibration | None, device: str
) -> dict[str, Any]:
    """The figures of a prune of some kind among the facts that every run has."""
    return {
        "version": RUN_VERSION,
        "model": loaded.source.name,
        "hub_id": loaded.source.name if loaded.source.from_hub else None,
        "license": loaded.license,
        "recipe": run.recipe.model_dump(mode="json"),
        "seed": run.recipe.seed,
        "calibration": None
        if calibration is None
        else {
            "text": calibration.text,
            "sequences": len(calibration.sample_ids),
            "seqlen": calibration.token_ids.shape[1],
            "windows": calibration.windows,
            "sample_ids": calibration.sample_ids,
        },
        **figures,
        "seconds": run.timings,
        "memory": {"peak": run.memory.peak, "by_phase": run.memory.by_phase},
        "warnings": run.warnings,
        "versions": versions(),
        "machine": machine(device),
    }


def add_evaluations(folder: Path, evaluations: list[dict[str, Any]]) -> None:
    """Add to the run.json of a folder; what was measured before of the same by the same protocol is replaced."""
    file = folder / RUN_FILE
    facts = json.loads(file.read_text(encoding="utf-8"))
    new = [_identity(evaluation) for evaluation in evaluations]
    before = [evaluation for evaluation in facts.get("evaluations", []) if _identity(evaluation) not in new]
    write_atomically(file, to_json(facts | {"evaluations": [*before, *evaluations]}, indent=2) + "\n")


def _identity(evaluation: dict[str, Any]) -> tuple[Any, ...]:
    return evaluation["kind"], evaluation["of"], evaluation["protocol"]


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    packages = ["transformers", "safetensors", "tokenizers", "numpy", *(["scipy"] if find_spec("scipy") else [])]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "trim_kernels": trim_kernels.__version__,
        **{package: metadata.version(package) for package in packages},
    }
