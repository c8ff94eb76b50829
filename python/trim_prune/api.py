"""prune(): the one call from a model and a recipe to a pruned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from torch import nn

from .budgets.layers import LAYER_BUDGETS
from .calibration.length import sequence_length
from .calibration.text import Text, TextSource, is_file, open_text
from .calibration.tokens import Calibration, calibration_tokens
from .callbacks import Callback, Calls
from .engine import Plan, make_plan, sparsity_figures, walk
from .errors import TrimPruneError
from .estimate.batch import batch_size
from .estimate.subject import Subject
from .events import Event, EventLog, Events, Listener
from .layers_file import write_layers
from .models.device import choose_device
from .models.load import LoadedModel, Source, gguf_candidates, load_model
from .models.masks import WrittenMasks
from .models.output import Output
from .models.sharding import parse_size
from .models.staging import check_output, protect_inputs, write_errors
from .models.wrappers import uncompiled, unwrap
from .permutation import require_scipy
from .recipe import Recipe
from .recipes import AnyRecipe, as_recipe
from .report.write import INSTALL, missing_packages, try_report
from .results import PruneResult
from .runfile import EVENT_FILE, write_run
from .runs.earlier import Earlier, open_earlier
from .runs.fingerprint import fingerprint
from .runs.folder import Run
from .runs.shared import SharedRun, require_alike, shared_run
from .structured import StructuredRecipe, StructuredResult
from .structured.run import prune_structure
from .team import Team, open_team
from .timing import Timings


class Options(TypedDict, total=False):
    """What :func:`prune` takes by keyword."""

    tokenizer: Any
    out: str | Path | None
    overwrite: bool
    resume: bool
    max_shard_size: int | str | None
    from_run: str | Path | None
    from_block: int | None
    gguf: str | Path | None
    trust_remote_code: bool
    text_field: str
    on_event: Listener | None
    callbacks: Sequence[Callback]


@overload
def prune(
    model: str | Path | nn.Module, recipe: Recipe, text: TextSource | None = None, **options: Unpack[Options]
) -> PruneResult: ...
@overload
def prune(
    model: str | Path | nn.Module, recipe: StructuredRecipe, text: TextSource | None = None, **options: Unpack[Options]
) -> StructuredResult: ...
@overload
def prune(
    model: str | Path | nn.Module,
    recipe: dict[str, Any] | str | Path,
    text: TextSource | None = None,
    **options: Unpack[Options],
) -> Any: ...
def prune(
    model: str | Path | nn.Module,
    recipe: AnyRecipe | dict[str, Any] | str | Path,
    text: TextSource | None = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = True,
    max_shard_size: int | str | None = None,
    from_run: str | Path | None = None,
    from_block: int | None = None,
    gguf: str | Path | None = None,
    trust_remote_code: bool = False,
    text_field: str = "text",
    on_event: Listener | None = None,
    callbacks: Sequence[Callback] = (),
) -> PruneResult | StructuredResult:
    """Prune a causal language model.

    model: a folder, a hub id, a GGUF file, or a transformers model (also within torch.compile or PEFT), which is pruned
    in place. recipe: a :class:`Recipe` or a :class:`StructuredRecipe`, its values as a dict, or a YAML file. text:
    calibration text (file, strings, or dataset name); None is enough for recipes that need none (magnitude with uniform
    rows). tokenizer: needed with a model object if there is text to tokenise or a folder to write. out: folder to
    write; without it the pruned model is only in the result. With it, a model from a folder is never in memory as a
    whole (with a :class:`StructuredRecipe`, or where transformers converts its weights, it is), and what is done is
    kept beside it until it is whole, in ``<out>.unfinished``. resume: go on from there if an earlier run of the same
    model, recipe, text and code stopped (with a :class:`StructuredRecipe` it begins anew); False: begin anew.
    max_shard_size: the largest weight file, in bytes or as "5GB"; by default the files are those of the model.
    from_run, from_block: take the blocks before that one, counted from 0, as an earlier run with that ``out`` pruned
    them, and prune only the others by this recipe. on_event: called with each :class:`Event`. callbacks: see
    :class:`Callback`.

    Where torch.distributed is in use, or torchrun has started several processes, they prune one model together: each of
    them makes this call, with the same arguments, and gets the same result; the first one writes, and has the events.

    Raises :class:`TrimPruneError` for anything wrong with what it was given. A model object is untouched by what is
    found before the pruning starts (NaN in a weight, a sparsity out of reach, too little text); a run that fails or is
    interrupted later (Ctrl-C, out of memory) leaves it partly pruned: some blocks are, the others are not.
    """
    shard_size = parse_size(max_shard_size)
    if shard_size is not None and out is None:
        raise TrimPruneError(
            "max_shard_size is given, and nothing is written", got=f"max_shard_size: {max_shard_size}", fix="give out"
        )
    inputs = _input_files(model, recipe, text, gguf)
    recipe = as_recipe(recipe)
    with ExitStack() as stack:
        team = stack.enter_context(open_team(recipe.device))
        _refuse_ranks(recipe, team)
        device = choose_device(recipe.device)
        if isinstance(recipe, Recipe) and recipe.permute:
            require_scipy()
        listeners: list[Listener] = [*([on_event] if on_event else []), *map(Calls, callbacks)]
        timings, events = Timings(device), Events(*(listeners if team.first else []))
        if recipe.needs_text and text is None:
            raise TrimPruneError(
                "calibration text is missing",
                expected=f"text for {_readers(recipe)}",
                fix=f"give text (--data); {_TEXTLESS[type(recipe)]} needs none",
            )
        earlier = _earlier(from_run, from_block, out) if team.first else None
        if earlier is not None and isinstance(recipe, StructuredRecipe):
            raise TrimPruneError(
                "a structured prune begins with the first block",
                got="from_run, and a recipe that takes whole heads and channels",
                fix="leave from_run and from_block out",
            )
        if out is not None and team.first:
            protect_inputs(Path(out), inputs if earlier is None else inputs | {"earlier run": earlier.folder})
            check_output(Path(out), overwrite)
        # Before the model is loaded, which may take minutes.
        source = open_text(text, field=text_field) if recipe.needs_text and text is not None else None
        run = None if out is None else stack.enter_context(shared_run(Path(out), resume, events.warn, team))
        if run is not None and run.run is not None:
            if isinstance(recipe, StructuredRecipe):
                run.run.require_empty()
            stack.enter_context(_logged(events, run.run))
        events.emit("start", recipe=recipe.model_dump(mode="json"))
        if run is not None and (missing := missing_packages()):
            events.warn(f"no page is written: {' and '.join(missing)} not installed: {INSTALL}")
        events.emit("phase", name="load")
        with timings.phase("load"):
            loaded = _load(model, tokenizer, recipe, gguf, trust_remote_code, run is None or _whole(recipe))
        for warning in loaded.warnings:
            events.warn(warning)
        stack.enter_context(uncompiled(loaded.model))
        if isinstance(recipe, StructuredRecipe):
            smaller = prune_structure(
                loaded,
                recipe,
                lambda: None if source is None else _calibrate(loaded, recipe, source),
                events,
                timings,
                None if run is None else run.model,
                None if out is None else Path(out),
                shard_size,
            )
            if run is not None and run.run is not None:
                _report(run.run, events)
            events.emit("finish", seconds=timings.seconds)
            return smaller
        with timings.phase("plan"):
            plan = make_plan(loaded.model, recipe, loaded.store, team)
        calibration = None
        if source is not None:
            with timings.phase("load"):
                calibration = _calibrate(loaded, recipe, source)
            with timings.phase("plan"):
                plan = _with_batch_size(plan, calibration, run)
        if run is not None or team.size > 1:
            with timings.phase("write"):
                facts = fingerprint(loaded, recipe, calibration, plan.device, earlier, shard_size)
                require_alike(facts, team)
                if run is not None:
                    blocks, size = plan.blocks, plan.recipe.batch_size
                    run.begin(
                        facts,
                        lambda own: Output(own.model, loaded, blocks, shard_size),
                        blocks,
                        events.warn,
                        earlier,
                        size,
                    )
        events.emit("phase", name="prune")
        linears, masks, _ = walk(plan, calibration, events, timings, run)
        result = PruneResult(
            recipe=plan.recipe,
            sparsity=sparsity_figures(plan, linears),
            linears=linears,
            masks=masks if run is None else WrittenMasks(run.out),
            sample_ids=calibration.sample_ids if calibration else [],
            timings=timings.seconds,
            memory=timings.memory,
            warnings=events.warnings,
            out=None if out is None else Path(out),
            load=_pruned(loaded, recipe, out, trust_remote_code),
        )
        if run is not None:
            events.emit("phase", name="write")
            with timings.phase("write"):
                run.finish(linears)
            run.describe(lambda own: _describe(own, result, loaded, calibration, str(plan.device), events))
        events.emit("finish", seconds=timings.seconds)
    return result


def _describe(
    run: Run, result: PruneResult, loaded: LoadedModel, calibration: Calibration | None, device: str, events: Events
) -> None:
    """Add to the output what there is to say of it."""
    with write_errors(run.out):
        write_layers(result, run.model)
        write_run(result, loaded, calibration, device, run.model)
    _report(run, events)


def _with_batch_size(plan: Plan, calibration: Calibration, run: SharedRun | None) -> Plan:
    """The plan with a number of sequences at once: an earlier process's, as another might change last bits."""
    if plan.recipe.batch_size != "auto":
        return plan
    if run is not None and (known := run.batch_size()) is not None:
        return _of_batches(plan, known)
    streamed = plan.blocks[0].store is not None
    sequences, tokens = calibration.token_ids.shape
    subject = Subject(plan.model, plan.blocks, plan.recipe, plan.device, streamed, run is not None, sequences, tokens)
    present = subject.bytes_outside + (0 if streamed else subject.bytes_of_blocks)
    return _of_batches(plan, min(plan.team.exchange(batch_size(subject, present)[0])))


def _of_batches(plan: Plan, size: int) -> Plan:
    return replace(plan, recipe=plan.recipe.model_copy(update={"batch_size": size}))


def _refuse_ranks(recipe: AnyRecipe, team: Team) -> None:
    """An error for what several processes cannot do together."""
    if team.size > 1 and isinstance(recipe, StructuredRecipe):
        raise TrimPruneError(
            "a structured prune is one process's", got=f"{team.size} ranks", fix="start it without torchrun"
        )
    if recipe.needs_text:
        team.require(recipe.samples)


_TEXTLESS: dict[type[AnyRecipe], str] = {
    Recipe: "score magnitude with rows and layers uniform, solver mask and no correction",
    StructuredRecipe: "heads and channels magnitude with layers uniform and repair none",
}


def _readers(recipe: AnyRecipe) -> str:
    """What of a recipe may read calibration text."""
    if isinstance(recipe, StructuredRecipe):
        return (
            f"heads {recipe.heads!r}, channels {recipe.channels!r}, layers {recipe.layers!r} and repair "
            f"{recipe.repair!r}"
        )
    return (
        f"score {recipe.score!r}, layers {recipe.layers!r}, rows {recipe.rows!r}, solver {recipe.solver!r} and "
        f"correction {recipe.correction}"
    )


def _whole(recipe: AnyRecipe) -> bool:
    """Whether a recipe needs the model in memory as a whole."""
    return isinstance(recipe, StructuredRecipe)


def _report(run: Run, events: Events) -> None:
    try_report(run.model, run.out.name, events.warn)
    events.emit("save", folder=str(run.model))


@contextmanager
def _logged(events: Events, run: Run) -> Iterator[None]:
    """Events inside this context are also lines of a file of the output."""
    with write_errors(run.out):
        log = EventLog(run.model / EVENT_FILE)

    def note(event: Event) -> None:
        with write_errors(run.out):
            log(event)

    events.listeners.append(note)
    try:
        yield
    finally:
        events.listeners.remove(note)
        log.close()


def _earlier(from_run: str | Path | None, from_block: int | None, out: str | Path | None) -> Earlier | None:
    if from_run is None and from_block is None:
        return None
    if from_run is None or from_block is None or out is None:
        given = {"from_run": from_run, "from_block": from_block, "out": out}
        raise TrimPruneError(
            "to go on from a block of an earlier run takes that run, the block and a new output",
            got=", ".join(f"{name}: {value}" for name, value in given.items() if value is not None),
            fix="give --from-run, --from-block and --out",
        )
    return open_earlier(Path(from_run).expanduser(), from_block)


def _pruned(
    loaded: LoadedModel, recipe: Recipe, out: str | Path | None, trust_remote_code: bool
) -> Callable[[], nn.Module]:
    """What gives the pruned model: from memory, or, if it never was there as a whole, from the output folder."""
    if loaded.store is None or out is None:
        return lambda: loaded.model

    def load() -> nn.Module:
        written = load_model(out, dtype=recipe.dtype, device=recipe.device, trust_remote_code=trust_remote_code)
        pruned: nn.Module = written.model
        return pruned

    return load


def _input_files(
    model: str | Path | nn.Module,
    recipe: AnyRecipe | dict[str, Any] | str | Path,
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
    recipe: AnyRecipe,
    gguf: str | Path | None,
    trust_remote_code: bool,
    hold: bool,
) -> LoadedModel:
    if not isinstance(model, nn.Module):
        loaded = load_model(
            model, gguf=gguf, dtype=recipe.dtype, device=recipe.device, trust_remote_code=trust_remote_code, hold=hold
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


def _calibrate(loaded: LoadedModel, recipe: AnyRecipe, text: Text) -> Calibration:
    if loaded.tokenizer is None:
        raise TrimPruneError("a model object needs its tokenizer for the calibration text", fix="tokenizer=...")
    seqlen = sequence_length(recipe, loaded.model)
    judging = LAYER_BUDGETS.get(recipe.layers).held_out if isinstance(recipe, Recipe) else None
    return calibration_tokens(
        loaded.tokenizer,
        text,
        samples=recipe.samples,
        seqlen=seqlen,
        seed=recipe.seed,
        held_out=judging(recipe, seqlen) if judging and isinstance(recipe, Recipe) else 0,
    )
