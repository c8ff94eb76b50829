"""The choices of a recipe as options of a command: ``prune`` takes them, and ``plan``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import presets
from ..budgets.layers import LAYER_BUDGETS
from ..budgets.rows import ROW_BUDGETS
from ..errors import TrimPruneError
from ..recipes import AnyRecipe, build_recipe, load_recipe
from ..scores import SCORES
from ..solvers import SOLVERS

WHAT, DATA, HOW, OUTPUT = "What to prune", "Calibration", "How it runs", "Output"
PRESETS, STRUCTURED, SCORE_NAMES, LAYERS, ROWS, SOLVER_NAMES = (
    ", ".join(names)
    for names in (
        presets.names(),
        presets.names(presets.STRUCTURED),
        *(registry.registered() for registry in (SCORES, LAYER_BUDGETS, ROW_BUDGETS, SOLVERS)),
    )
)


@dataclass(frozen=True)
class Chosen:
    """The recipe that the options of a command make, and the file that it was completed from."""

    recipe: AnyRecipe
    file: Path | None


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a recipe in the place of its argument ``chosen``."""
    own = inspect.signature(command, eval_str=True)
    options = inspect.signature(_chosen, eval_str=True)

    @wraps(command)
    def filled(**values: Any) -> None:
        command(chosen=_chosen(**{name: values.pop(name) for name in options.parameters}), **values)

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += options.parameters.values() if parameter.name == "chosen" else [parameter]
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    filled.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    filled.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return filled


def _chosen(
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights of all linears that go, e.g. 0.7.", rich_help_panel=WHAT)
    ] = None,
    params: Annotated[
        float | None,
        typer.Option(help="Share of all parameters that stays when whole heads and channels go.", rich_help_panel=WHAT),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="Share of all parameters that goes, as heads and channels.", rich_help_panel=WHAT),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help=f"A recipe with a name: {PRESETS}; for --params: {STRUCTURED}.", rich_help_panel=WHAT),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="With --params: ragged (each block its size), uniform (all alike, loads anywhere) or masked (zeros).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    repair: Annotated[
        str | None,
        typer.Option(help="With --params: affine, full or none, what makes up for what went.", rich_help_panel=WHAT),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help=f"Importance of a weight: {SCORE_NAMES} (default: wanda).", rich_help_panel=WHAT)
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help=f"Budget of the linears: {LAYERS} (default: uniform).", rich_help_panel=WHAT)
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help=f"Budget of the rows: {ROWS} (default: trim).", rich_help_panel=WHAT)
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help=f"What survivors do: {SOLVER_NAMES} (default: mask).", rich_help_panel=WHAT)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Weights that stay of every --of columns; without it, as --layers says.", rich_help_panel=WHAT
        ),
    ] = None,
    of: Annotated[int | None, typer.Option(help="Columns of a group of an N:M pattern.", rich_help_panel=WHAT)] = None,
    permute: Annotated[
        bool | None,
        typer.Option(
            "--permute",
            help="Order columns so that the groups of a pattern lose least, where the model stays exactly the same.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    correction: Annotated[
        float | None,
        typer.Option(
            help="Share of what earlier blocks changed that a linear makes up for (default 0).", rich_help_panel=WHAT
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with any of these choices, and the options of the methods.", rich_help_panel=WHAT),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of sequences (default 128).", rich_help_panel=DATA)
    ] = None,
    seqlen: Annotated[
        int | None,
        typer.Option(help="Tokens per sequence (default 2048, or the model's context).", rich_help_panel=DATA),
    ] = None,
    tokens_per_sequence: Annotated[
        int | None,
        typer.Option(help="Tokens of each sequence that the row search sees (default 1).", rich_help_panel=DATA),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling (default 0).", rich_help_panel=DATA)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Compute in float32, bfloat16 or float16 (default auto: as stored).", rich_help_panel=HOW),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Sequences per forward, or auto: as many as memory allows (default).", rich_help_panel=HOW),
    ] = None,
    damping: Annotated[
        float | None,
        typer.Option(
            help="Damping of Gram matrices, as a share of their mean diagonal (default: by the number of tokens).",
            rich_help_panel=HOW,
        ),
    ] = None,
    recapture: Annotated[
        bool | None,
        typer.Option(
            "--recapture", help="Measure later linears of a block after earlier ones are pruned.", rich_help_panel=HOW
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 (default auto).", rich_help_panel=HOW)] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict", help="Stop at a linear that needs a fallback, in place of recording it.", rich_help_panel=HOW
        ),
    ] = None,
    allow_uncovered: Annotated[
        bool | None,
        typer.Option(
            "--allow-uncovered",
            help="Leave weights of the blocks dense that lie in no linear, even above 1%.",
            rich_help_panel=HOW,
        ),
    ] = None,
) -> Chosen:
    """The recipe that these options make."""
    values: dict[str, Any] = dict(locals())
    file, values["pattern"] = values.pop("recipe"), _pattern(values.pop("keep"), values.pop("of"))
    if batch_size is not None and batch_size.isdecimal():
        values["batch_size"] = int(batch_size)
    options = {name: value for name, value in values.items() if value is not None}
    made = build_recipe(options, where="options") if file is None else load_recipe(file, options)
    return Chosen(made, file)


def _pattern(keep: int | None, of: int | None) -> str | None:
    if of is None:
        if keep is not None:
            raise TrimPruneError("a pattern needs both numbers", got=f"--keep {keep}", fix=f"--keep {keep} --of 4")
        return None
    return f"of {of}" if keep is None else f"keep {keep} of {of}"
