"""prune(): the one call from a model and a recipe to a pruned model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from .budgets.layers import LAYER_BUDGETS
from .calibration.text import Text, TextSource, is_file, open_text
from .calibration.tokens import Calibration, calibration_tokens
from .engine import make_plan, sparsity_figures, walk
from .errors import TrimPruneError
from .events import EventLog, Events, Listener
from .layers_file import write_layers
from .models.device import choose_device, context_length
from .models.load import LoadedModel, Source, gguf_candidates, load_model
from .models.save import verify, write_masks, write_model
from .models.staging import check_output, output_folder, protect_inputs, write_errors
from .models.wrappers import uncompiled, unwrap
from .permutation import require_scipy
from .recipe import Recipe
from .results import PruneResult
from .runfile import EVENT_FILE, write_run
from .timing import Timings

DEFAULT_SEQLEN = 2048


def prune(
    model: str | Path | nn.Module,
    recipe: Recipe | dict[str, Any] | str | Path,
    text: TextSource | None = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    gguf: str | Path | None = None,
    trust_remote_code: bool = False,
    text_field: str = "text",
    on_event: Listener | None = None,
) -> PruneResult:
    """Prune a causal language model.

    model: a folder, a hub id, a GGUF file, or a transformers model (also within torch.compile or PEFT), which is pruned
    in place. recipe: a :class:`Recipe`, its values as a dict, or a YAML file. text: calibration text (file, strings, or
    dataset name); None is enough for recipes that need none (magnitude with uniform rows). tokenizer: needed with a
    model object if there is text to tokenise or a folder to write. out: folder to write; without it the pruned model is
    only in the result. on_event: called with each :class:`Event`.

    Raises :class:`TrimPruneError` for anything wrong with what it was given. A model object is untouched by what is
    found before the pruning starts (NaN in a weight, a sparsity out of reach, too little text); a run that fails or is
    interrupted later (Ctrl-C, out of memory) leaves it partly pruned: some blocks are, the others are not.
    """
    inputs = _input_files(model, recipe, text, gguf)
    recipe = _as_recipe(recipe)
    choose_device(recipe.device)
    if recipe.permute:
        require_scipy()
    timings, events = Timings(), Events(*([on_event] if on_event else []))
    if recipe.needs_text and text is None:
        raise TrimPruneError(
            "calibration text is missing",
            expected=f"text for score {recipe.score!r}, layers {recipe.layers!r}, rows {recipe.rows!r}, solver "
            f"{recipe.solver!r} and correction {recipe.correction}",
            fix="give text (--data); score magnitude with rows and layers uniform, solver mask and no correction "
            "needs none",
        )
    if out is not None:
        protect_inputs(Path(out), inputs)
        check_output(Path(out), overwrite)
    # Before the model is loaded, which may take minutes.
    source = open_text(text, field=text_field) if recipe.needs_text and text is not None else None
    with ExitStack() as stack:
        folder = stack.enter_context(output_folder(Path(out))) if out is not None else None
        if folder is not None:
            log = EventLog(folder / EVENT_FILE)
            stack.callback(log.close)
            events.listeners.append(log)
        events.emit("start", recipe=recipe.model_dump(mode="json"))
        events.emit("phase", name="load")
        with timings.phase("load"):
            loaded = _load(model, tokenizer, recipe, gguf, trust_remote_code)
        for warning in loaded.warnings:
            events.warn(warning)
        stack.enter_context(uncompiled(loaded.model))
        with timings.phase("plan"):
            plan = make_plan(loaded.model, recipe)
        calibration = None
        if source is not None:
            with timings.phase("load"):
                calibration = _calibrate(loaded, recipe, source)
        events.emit("phase", name="prune")
        linears, masks, moves = walk(plan, calibration, events, timings, folder)
        result = PruneResult(
            model=loaded.model,
            recipe=recipe,
            sparsity=sparsity_figures(plan, linears),
            linears=linears,
            masks=masks,
            sample_ids=calibration.sample_ids if calibration else [],
            timings=timings.seconds,
            warnings=events.warnings,
            out=None if out is None else Path(out),
        )
        if folder is not None:
            events.emit("phase", name="write")
            with write_errors(result.out or folder):
                with timings.phase("write"):
                    written = write_model(loaded, plan.linears, masks, moves, folder, events.warn)
                    write_masks(written.tensors, folder)
                    verify(folder, linears, written.kept_zeros)
                write_layers(result, folder)
                write_run(result, loaded.source.name, calibration, str(plan.device), folder)
        events.emit("finish", seconds=timings.seconds)
    return result


def _as_recipe(recipe: Recipe | dict[str, Any] | str | Path) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.build(recipe) if isinstance(recipe, dict) else Recipe.load(recipe)


def _input_files(
    model: str | Path | nn.Module,
    recipe: Recipe | dict[str, Any] | str | Path,
    text: TextSource | None,
    gguf: str | Path | None,
) -> dict[str, Path]:
    """The local files that a run reads; a hub id or a dataset's name is none."""
    inputs = {}
    if isinstance(model, (str, Path)):
        inputs["model"] = Path(model).expanduser()
        files = [file for file in gguf_candidates(inputs["model"], gguf) if file.is_file()]
        if gguf is not None and files:
            inputs["GGUF file"] = files[0]
    if isinstance(text, (str, Path)) and is_file(Path(text)):
        inputs["text"] = Path(text)
    if isinstance(recipe, (str, Path)):
        inputs["recipe"] = Path(recipe)
    return inputs


def _load(
    model: str | Path | nn.Module,
    tokenizer: Any,
    recipe: Recipe,
    gguf: str | Path | None,
    trust_remote_code: bool,
) -> LoadedModel:
    if not isinstance(model, nn.Module):
        loaded = load_model(
            model, gguf=gguf, dtype=recipe.dtype, device=recipe.device, trust_remote_code=trust_remote_code
        )
        return loaded if tokenizer is None else replace(loaded, tokenizer=tokenizer)
    if recipe.dtype != "auto":
        raise TrimPruneError(
            "a model object is computed as it is",
            got=f"dtype: {recipe.dtype}",
            fix="convert it yourself: model.to(...)",
        )
    inner = unwrap(model)
    return LoadedModel(inner, tokenizer, Source(type(inner).__name__))


def _calibrate(loaded: LoadedModel, recipe: Recipe, text: Text) -> Calibration:
    if loaded.tokenizer is None:
        raise TrimPruneError("a model object needs its tokenizer for the calibration text", fix="tokenizer=...")
    context = context_length(loaded.model)
    seqlen = recipe.seqlen or min(DEFAULT_SEQLEN, context or DEFAULT_SEQLEN)
    if context is not None and seqlen > context:
        raise TrimPruneError(
            "calibration sequences are longer than the model's context",
            expected=f"seqlen at most {context}",
            got=str(seqlen),
        )
    if recipe.tokens_per_sequence > seqlen:
        raise TrimPruneError(
            "more search tokens per sequence than it has",
            expected=f"tokens_per_sequence at most {seqlen}",
            got=str(recipe.tokens_per_sequence),
        )
    judging = LAYER_BUDGETS.get(recipe.layers).held_out
    return calibration_tokens(
        loaded.tokenizer,
        text,
        samples=recipe.samples,
        seqlen=seqlen,
        seed=recipe.seed,
        held_out=judging(recipe, seqlen) if judging else 0,
    )
