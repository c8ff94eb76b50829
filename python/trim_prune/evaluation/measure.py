"""Everything that is asked of one model, with the model loaded once; and where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.text import TextSource, open_text
from ..errors import TrimPruneError
from ..models.device import choose_device
from ..models.load import load_model
from ..run_facts import Facts, read_facts
from ..runfile import RUN_FILE, add_evaluations
from .dense import embedding_checksum, require_dense_model
from .perplexity import perplexity
from .protocol import evaluation
from .speed import speed
from .zero_shot import check_tasks, zero_shot

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What to measure: perplexity on ``data``, zero-shot ``tasks``, speed; any of them."""

    data: TextSource | None = None
    seqlen: int = 2048
    max_windows: int | None = None
    text_field: str = "text"
    tasks: tuple[str, ...] = ()
    task_data: Path | None = None
    limit: int | None = None
    speed: bool = False

    def check(self) -> None:
        """Refuse, before any model is loaded, what cannot be measured."""
        if self.data is None and not self.tasks and not self.speed:
            raise TrimPruneError("nothing to measure", fix="--data TEXT, --tasks NAME,NAME or --speed")
        if not self.tasks and (self.task_data is not None or self.limit is not None):
            raise TrimPruneError("a limit or a folder for tasks, and no tasks", fix="--tasks NAME,NAME")
        if self.data is not None:
            open_text(self.data, field=self.text_field, held_out=True)
        if self.tasks:
            check_tasks(self.tasks, self.task_data)


def measure(
    model: str | Path,
    of: str,
    wanted: Wanted,
    *,
    run: Facts | None = None,
    gguf: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Load a model and measure it; ``of``: whether it is the pruned one, or the dense. One evaluation each.

    ``run``: the model must be the one that this run began with.
    """
    place = choose_device(device)
    loaded = load_model(model, gguf=gguf, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if run is not None:
        require_dense_model(run, loaded.model, str(model))
    known_by = embedding_checksum(loaded.model)
    loaded.model.to(place)
    found = []

    def tell(what: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else lambda done, total: on_progress(f"{of}: {what}", done, total)

    if wanted.data is not None:
        text = open_text(wanted.data, field=wanted.text_field, held_out=True)
        result = perplexity(
            loaded.model,
            loaded.tokenizer,
            text,
            seqlen=wanted.seqlen,
            max_windows=wanted.max_windows,
            on_batch=tell("windows"),
        )
        found.append(evaluation("perplexity", of, str(model), result.protocol, {"perplexity": result.perplexity}))
    if wanted.tasks:
        measured = zero_shot(
            loaded.model,
            loaded.tokenizer,
            wanted.tasks,
            data=wanted.task_data,
            limit=wanted.limit,
            on_request=tell("answers"),
        )
        found += [evaluation("task", of, str(model), *measured[name]) for name in wanted.tasks]
    if wanted.speed:
        found.append(evaluation("speed", of, str(model), *speed(loaded.model, on_run=tell("runs"))))
    return [measured | {"embeddings": known_by} for measured in found]


def keep(folder: Path, evaluations: list[dict[str, Any]], warn: Callable[[str], None]) -> bool:
    """Add evaluations to the run.json of a pruned folder; returns whether it is one, and :func:`show` is due."""
    if not (folder / RUN_FILE).is_file():
        return False
    try:
        read_facts(folder)  # not into a file that nothing of ours can read
        add_evaluations(folder, evaluations)
    except (OSError, TrimPruneError) as error:
        warn(f"the results are not kept in {folder / RUN_FILE}: {error}")
        return False
    return True


def show(folder: Path, warn: Callable[[str], None]) -> None:
    """Make the report of a pruned folder again, with what was kept."""
    from ..report.write import try_report

    try_report(folder, folder.absolute().name, warn)
