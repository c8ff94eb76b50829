"""run.json read back: what earlier versions did not write gets what it meant then, and what is missing is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import TrimPruneError
from .runfile import RUN_FILE, RUN_VERSION

Facts = dict[str, Any]
Shape = Annotated[list[int], Field(min_length=2, max_length=2)]


class _Open(BaseModel):
    """Of an object in the file, what is read of it; all else stays as it is."""

    model_config = ConfigDict(extra="allow")


class _Result(_Open):
    name: str
    weight: str
    block: int
    shape: Shape
    prune_count: int
    row_min: int
    row_max: int
    kept_zeros: int
    quality: float | None
    baseline_quality: float | None
    learning_rate: float | None
    iteration: int | None
    output_error: float | None = None
    seconds: float
    steps: list[str] = []
    pattern: str | None = None
    permuted: list[float] | None = None
    tokens: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_parameter(cls, values: Any) -> Any:
        # Linears were the only parameters with weights once.
        return {"weight": f"{values.get('name')}.weight"} | values if isinstance(values, dict) else values


class _Linear(_Result):
    sparsity: float


class _Evaluation(_Open):
    kind: str
    of: str
    protocol: dict[str, Any]
    results: dict[str, Any]


class _Calibration(_Open):
    text: str
    sequences: int
    seqlen: int


class _Memory(_Open):
    peak: dict[str, int] = {}
    by_phase: dict[str, dict[str, int]] = {}


class _Machine(_Open):
    device: str


class _Run(_Open):
    """What every run has."""

    version: Literal[1]
    model: str
    hub_id: str | None = None
    license: str | None = None
    calibration: _Calibration | None
    seconds: dict[str, float]
    memory: _Memory = _Memory()
    warnings: list[str]
    versions: dict[str, str]
    machine: _Machine
    evaluations: list[_Evaluation] = []


class _Recipe(_Open):
    sparsity: float
    score: str
    rows: str
    layers: str
    solver: str
    pattern: str | None = None
    permute: bool = False
    correction: float = 0.0
    recapture: bool = False
    seed: int


class _Sparsity(_Open):
    pruned: int
    prunable_weights: int
    non_embedding_parameters: int
    all_parameters: int
    of_prunable: float
    of_non_embedding: float
    of_all: float


class _WeightRun(_Run):
    recipe: _Recipe
    sparsity: _Sparsity
    linears: list[_Linear]
    output_error_inputs: str | None = None


class _StructuredRecipe(_Open):
    params: float | None = None
    ratio: float | None = None
    sizes: dict[str, int] | None = None
    mode: str
    layers: str
    heads: str
    channels: str
    repair: str
    seed: int


class _Parameters(_Open):
    dense: int
    pruned: int
    target: int | None
    kept: int | None = None
    share: float | None


class _Part(_Open):
    block: int
    kind: str
    units: int
    kept: list[int]
    repair: str
    error: float | None
    repaired_error: float | None
    seconds: float
    steps: list[str] = []


class _Speed(_Open):
    dense: float
    pruned: float
    device: str


class _Check(_Open):
    loaded_by: str
    parameters: int
    difference: float


class _StructuredRun(_Run):
    recipe: _StructuredRecipe
    units: list[dict[str, int]] = []
    parameters: _Parameters
    parts: list[_Part]
    cosines: list[float] | None
    speed: _Speed
    check: _Check | None

    @model_validator(mode="after")
    def _with_kept(self) -> _StructuredRun:
        # Earlier versions did not note it, and a share of 1 in masked mode.
        found = self.parameters
        if found.kept is None and self.recipe.mode == "masked":
            found.share = None
        elif found.kept is None:
            found.kept = found.pruned
        return self


def read_facts(folder: Path) -> Facts:
    """The facts of the run that wrote a folder, of either kind; a structured one has ``parts``, others ``linears``.

    Raises:
        TrimPruneError: there is no run.json, or not one that this version knows.
    """
    file = folder / RUN_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrimPruneError(
            f"no {RUN_FILE} to read: {error.strerror}",
            where=str(folder),
            expected="a folder that trim-prune prune wrote",
        ) from None
    except ValueError as error:
        raise TrimPruneError(f"{RUN_FILE} is not JSON: {error}", where=str(file)) from None
    if isinstance(facts, dict) and facts.get("version", RUN_VERSION) != RUN_VERSION:
        raise TrimPruneError(
            f"{RUN_FILE} is of another version",
            where=str(file),
            expected=str(RUN_VERSION),
            got=repr(facts["version"]),
            fix="pip install --upgrade trim-kernels",
        )
    if not isinstance(facts, dict) or not {"version", "recipe"} <= facts.keys():
        raise TrimPruneError(
            f"{RUN_FILE} is not of a prune",
            where=str(file),
            expected="a folder that trim-prune prune wrote",
            fix=f"move the file away, if another program wrote it: {RUN_FILE} is the name of ours",
        )
    return _validated(_StructuredRun if "parts" in facts else _WeightRun, facts, file)


def known_facts(folder: Path) -> Facts | None:
    """As :func:`read_facts`; None where that raises, as of a model that was never pruned."""
    try:
        return read_facts(folder)
    except TrimPruneError:
        return None


def complete_result(result: Mapping[str, Any], where: Path) -> Facts:
    """The result of a linear as an earlier version noted it, with what it did not note; numbers stay as they are.

    Raises:
        TrimPruneError: it does not say enough.
    """
    return {**_validated(_Result, result, where), **result}


def _validated(kind: type[BaseModel], values: Mapping[str, Any], where: Path) -> Facts:
    try:
        return kind.model_validate(values).model_dump()
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        written = values.get("versions", {})
        by = written.get("trim_kernels") if isinstance(written, dict) else None
        raise TrimPruneError(
            "what is noted of a run is incomplete",
            where=str(where),
            expected=f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}",
            got=None if by is None else f"notes of trim-kernels {by}",
            fix="prune again, or use the version that wrote it",
        ) from None
