"""What a prune will do, take and cost, found out from configuration and file headers before it is begun."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from .. import engine
from ..activations import Where, free_memory, free_on
from ..budget import Budget
from ..budgets.layers import LAYER_BUDGETS
from ..calibration.length import sequence_length
from ..errors import WeightsElsewhereError
from ..models.coverage import coverage_warnings
from ..models.device import choose_device
from ..models.discover import Linear
from ..models.headers import header_folder, outline_model
from ..recipe import Recipe
from ..recipes import AnyRecipe, as_recipe
from ..structured.plan import outline as outline_structure
from ..structured.plan import refuse_few_tokens
from ..structured.recipe import StructuredRecipe
from .batch import batch_size
from .disk import output_bytes, weight_bytes
from .memory import Moment, Place, hidden_states, peak
from .rates import Rates, measure_rates
from .seconds import operations, passes, seconds_by_phase
from .structured import Shrinking, shrinking, structured_batch_size, structured_moments
from .subject import Subject


@dataclass(frozen=True)
class BlockCount:
    """A block: its prunable weights, and how many of them go; None where that is decided during the run."""

    name: str
    weights: int
    pruned: int | None


@dataclass(frozen=True)
class Pruning:
    """Of the single weights ``pruned`` of ``weights`` go, exactly. ``split``: who says how many of each block."""

    weights: int
    pruned: int
    split: str
    blocks: tuple[BlockCount, ...]


@dataclass(frozen=True)
class Forecast:
    """What a prune by a recipe will do, take and cost; all sizes are bytes.

    ``pruning``: where single weights go; ``shrinking``: where whole heads and channels go. ``streamed``: whether the
    blocks are read one by one. ``hidden_states``: where they wait. ``peaks``: the highest moment of each place, beside
    Python and its libraries, which take ``interpreter`` of the host. ``disk``: what is written, by name; all but the
    output is gone in the end. ``operations``: of all forwards. ``seconds``: by phase; empty where no time was
    estimated. ``notes``: what else there is to say.
    """

    model: str
    architecture: str
    recipe: AnyRecipe
    device: str
    streamed: bool
    sequences: int
    tokens: int
    batch_size: int
    hidden_states: Where
    pruning: Pruning | None
    shrinking: Shrinking | None
    peaks: Mapping[Place, Moment]
    interpreter: int
    disk: Mapping[str, int]
    operations: float
    seconds: Mapping[str, float]
    rates: Rates | None
    notes: tuple[str, ...]


def plan(
    model: str | Path,
    recipe: AnyRecipe | dict[str, Any] | str | Path,
    *,
    out: str | Path = "pruned",
    trust_remote_code: bool = False,
    timed: bool = True,
) -> Forecast:
    """Tell what :func:`trim_prune.prune` would do with a model and a recipe; no weight is read.

    Of a hub id only the configuration and the index are downloaded. out: the folder that would be written, whose disk
    counts. timed: whether to measure the machine, which takes two seconds, and to estimate the time.

    Raises:
        TrimPruneError: no such model, or a prune would refuse the recipe for it.
    """
    folder, recipe = header_folder(model), as_recipe(recipe)
    device = choose_device(recipe.device)
    made, streamed = outline_model(
        folder, str(model), dtype=recipe.dtype, device=device, trust_remote_code=trust_remote_code
    )
    outlined = _Outlined(str(model), folder, made, streamed, device, Path(out), timed)
    return _weights(outlined, recipe) if isinstance(recipe, Recipe) else _structure(outlined, recipe)


@dataclass(frozen=True)
class _Outlined:
    name: str
    folder: Path
    model: nn.Module
    streamed: bool
    device: torch.device
    out: Path
    timed: bool

    def lengths(self, recipe: AnyRecipe) -> tuple[int, int]:
        """Calibration sequences, and their tokens."""
        return (recipe.samples, sequence_length(recipe, self.model)) if recipe.needs_text else (0, 0)

    @property
    def places(self) -> tuple[Place, ...]:
        return ("host", "gpu") if self.device.type == "cuda" else ("host",)


def _weights(outlined: _Outlined, recipe: Recipe) -> Forecast:
    model, device = outlined.model, outlined.device
    interpreter = psutil.Process().memory_info().rss
    found = engine.outline(model, recipe)
    sequences, tokens = outlined.lengths(recipe)
    files = weight_bytes(outlined.folder, model)
    stored = max(1, files // sum(parameter.numel() for parameter in model.parameters()))
    subject = Subject(model, found.blocks, recipe, device, outlined.streamed, True, sequences, tokens, stored)
    batch, where = batch_size(subject)
    peaks = {place: peak(subject, batch, where, place) for place in outlined.places}
    disk = output_bytes(outlined.folder, files, [linear.shape for linear in subject.linears])
    if device.type == "cpu":
        # Two at a time: those of a block go when those of the next one are there.
        disk["hidden states, to go on from"] = 2 * hidden_states(subject)
    if where == "file":
        disk["hidden states"] = hidden_states(subject)
    rates = measure_rates(device, next(model.parameters()).dtype, outlined.out) if outlined.timed else None
    return Forecast(
        model=outlined.name,
        architecture=type(model).__name__,
        recipe=recipe,
        device=str(device),
        streamed=outlined.streamed,
        sequences=sequences,
        tokens=tokens,
        batch_size=batch,
        hidden_states=where,
        pruning=_pruning(found),
        shrinking=None,
        peaks=peaks,
        interpreter=interpreter,
        disk=disk,
        operations=operations(subject) * passes(subject) if sequences else 0.0,
        seconds={} if rates is None else seconds_by_phase(subject, rates, batch, files, sum(disk.values())),
        rates=rates,
        notes=(
            *coverage_warnings(model, found.blocks, recipe),
            *_held(outlined),
            *_not_estimated(recipe, outlined.timed),
            *_too_large(outlined, peaks, disk),
        ),
    )


def _structure(outlined: _Outlined, recipe: StructuredRecipe) -> Forecast:
    model, device = outlined.model, outlined.device
    found = outline_structure(model, recipe)
    sequences, tokens = outlined.lengths(recipe)
    if sequences:
        refuse_few_tokens(found, sequences * tokens)
    batch = structured_batch_size(found, sequences, tokens) if sequences else 1
    sizes = shrinking(found)
    files = weight_bytes(outlined.folder, model)
    element = next(model.parameters()).element_size()
    moments = structured_moments(found, batch, sequences, tokens, element)
    peaks = {
        place: max((moment for moment in moments if moment.place == place), key=lambda moment: moment.total)
        for place in outlined.places
    }
    share = 1.0 if recipe.mode == "masked" else sizes.stay / sizes.parameters
    disk = output_bytes(outlined.folder, round(files * share), [])
    return Forecast(
        model=outlined.name,
        architecture=type(model).__name__,
        recipe=recipe,
        device=str(device),
        streamed=False,
        sequences=sequences,
        tokens=tokens,
        batch_size=batch,
        hidden_states="memory",
        pruning=None,
        shrinking=sizes,
        peaks=peaks,
        interpreter=psutil.Process().memory_info().rss,
        disk=disk,
        operations=0.0,
        seconds={},
        rates=None,
        notes=(*found.notes[1:], *_too_large(outlined, peaks, disk)),
    )


def _pruning(found: engine.Plan) -> Pruning:
    """The counts of the blocks, where the layer budget needs neither calibration nor weights."""
    name, weights = found.recipe.layers, sum(linear.size for linear in found.linears)
    budgets: dict[Linear, Budget] | None = None
    if LAYER_BUDGETS.get(name).needs_text:
        split = f"layer budget {name!r}, from calibration text, during the run"
    else:
        try:
            budgets, split = engine.divide(found, {}, None), f"layer budget {name!r}, exactly so"
        except WeightsElsewhereError:
            split = f"layer budget {name!r}, from the weights, during the run"
    blocks = []
    for block in found.blocks:
        pruned = None if budgets is None else sum(budgets[linear].prune_count for linear in block.linears)
        blocks.append(BlockCount(block.name, sum(linear.size for linear in block.linears), pruned))
    total = round(found.recipe.sparsity * weights)
    if budgets is None and found.recipe.pattern is not None:
        split += f"; more go if whole groups of {found.recipe.pattern.of} do not meet the sparsity"
    if budgets is not None:
        total = sum(budget.prune_count for budget in budgets.values())
    return Pruning(weights, total, split, tuple(blocks))


def _not_estimated(recipe: Recipe, timed: bool) -> list[str]:
    if recipe.layers != "msp" or not timed:
        return []
    return ["the estimated time is without the search of layers 'msp', which takes hundreds of forwards more"]


def _held(outlined: _Outlined) -> list[str]:
    if outlined.streamed:
        return []
    return ["the whole model is held in memory: transformers converts its weights while it loads them"]


def _too_large(outlined: _Outlined, peaks: Mapping[Place, Moment], disk: Mapping[str, int]) -> list[str]:
    """What is short of room now."""
    place = next(parent for parent in (outlined.out.absolute(), *outlined.out.absolute().parents) if parent.is_dir())
    free = {"host": free_memory(), "disk": shutil.disk_usage(place).free}
    needed = {"host": peaks["host"].total, "disk": sum(disk.values())}
    if "gpu" in peaks:
        free["gpu"], needed["gpu"] = free_on(outlined.device), peaks["gpu"].total
    return [
        f"{name}: {needed[name]} bytes are needed and {free[name]} free" for name in free if needed[name] > free[name]
    ]


def to_json(forecast: Forecast) -> dict[str, Any]:
    """The forecast as plain values."""
    return asdict(forecast) | {
        "recipe": forecast.recipe.model_dump(mode="json"),
        "peaks": {place: asdict(moment) | {"total": moment.total} for place, moment in forecast.peaks.items()},
    }
