"""Zero-shot tasks, by the released lm-evaluation-harness on the live model."""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..errors import TrimPruneError, nearest

INSTALL = "pip install 'trim-kernels[eval]'"
BATCH = 8
FORMATS = {".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}
SPLITS = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
Measured = tuple[dict[str, Any], dict[str, Any]]


def require_harness() -> None:
    """Raise a TrimPruneError if lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise TrimPruneError("zero-shot tasks need the package lm-eval", fix=INSTALL)


@functools.cache
def _known_tasks() -> Any:
    """What the harness can do; it reads thousands of files to know."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def check_tasks(tasks: Sequence[str], data: Path | None) -> None:
    """An error for a name that is no task, or whose data is not in the folder; before any work."""
    require_harness()
    manager = _known_tasks()
    known = set(manager.all_subtasks)
    for name in tasks:
        if name not in known:
            kind = "a group of tasks: name those of it that are wanted" if name in manager.all_tasks else None
            raise TrimPruneError(f"unknown task {name!r}", got=kind, fix=nearest(name, known) or None)
        if data is not None:
            local_files(data, name)


def local_files(data: Path, task: str) -> dict[str, list[str]]:
    """The files of a task below DATA/TASK by split, which the name of a file or of a folder on the way tells."""
    found: dict[str, list[str]] = {}
    folder = data / task
    for file in sorted(folder.rglob("*")):
        if file.suffix in FORMATS:
            words = [part.partition(".")[0].partition("-")[0] for part in file.relative_to(folder).parts]
            if (split := next((word for word in words if word in SPLITS), None)) is not None:
                found.setdefault(split, []).append(str(file.resolve()))
    if not found:
        raise TrimPruneError(
            f"no data of task {task!r}",
            where=str(folder),
            expected="validation.jsonl (or test, train; or .parquet, .arrow; or a folder of one of these names)",
        )
    return found


def zero_shot(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    limit: int | None = None,
    on_request: Callable[[int, int], None] | None = None,
) -> dict[str, Measured]:
    """By task, the protocol and the metrics of the harness, without examples in the prompt.

    ``data``: a folder with the tasks' data, see :func:`local_files`; without it the harness asks the hub for them.
    ``limit``: so many examples of each task. ``on_request(rated answers, answers)``.
    """
    check_tasks(tasks, data)
    import datasets
    import lm_eval

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = lm_eval.simple_evaluate(
                model=_harness_model(model, tokenizer, on_request),
                tasks=list(tasks),
                task_manager=_known_tasks() if data is None else _local_tasks(tasks, data, Path(folder)),
                num_fewshot=0,
                limit=limit,
                log_samples=True,
            )
        except (MemoryError, TrimPruneError):
            raise
        except Exception as error:
            raise TrimPruneError(
                "the harness cannot run these tasks",
                where=", ".join(tasks),
                got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                fix="without a network: --task-data FOLDER with data in the form that the task expects",
            ) from error
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {name: _measured(name, found, limit, dtype) for name in tasks}


def _local_tasks(tasks: Sequence[str], data: Path, folder: Path) -> Any:
    """The harness's own definitions of some tasks, completed in ``folder`` by where their data is."""
    from lm_eval.tasks import TaskManager

    for name in tasks:
        definition = str(_known_tasks().task_index[name].yaml_path)
        content = {"include": definition, "task": name, **_with_local_data(local_files(data, name))}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return TaskManager(include_path=folder, include_defaults=False)


def _with_local_data(files: dict[str, list[str]]) -> dict[str, Any]:
    """What makes a task read local files: only the splits that are there, so that it is judged by one of them."""
    kinds = {FORMATS[Path(file).suffix] for group in files.values() for file in group}
    if len(kinds) > 1:
        raise TrimPruneError("the data of a task is in more than one format", got=", ".join(sorted(kinds)))
    return {
        "dataset_path": kinds.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **{key: split if split in files else None for split, key in SPLITS.items()},
        "fewshot_split": None,
    }


def _measured(name: str, found: Any, limit: int | None, dtype: str) -> Measured:
    config, samples = found["configs"][name], found["samples"][name]
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample['doc_hash']} {sample['prompt_hash']} {sample['target_hash']}\n".encode())
    protocol = {
        "task": name,
        "version": found["versions"][name],
        "split": config.get("test_split") or config.get("validation_split"),
        "examples": found["n-samples"][name]["effective"],
        "first_only": limit,
        "shots": 0,
        "examples_sha256": digest.hexdigest(),
        "dtype": dtype,
        "harness": f"lm-eval {metadata.version('lm-eval')}",
    }
    metrics = {key.partition(",")[0]: value for key, value in found["results"][name].items() if key.endswith(",none")}
    return protocol, {key: value for key, value in metrics.items() if isinstance(value, (int, float))}


def _harness_model(model: nn.Module, tokenizer: Any, on_request: Callable[[int, int], None] | None) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Watched(HFLM):  # type: ignore[misc]
        """The harness's own model, which tells us how far it is in place of printing bars."""

        done = total = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:  # noqa: ARG002
            self.done, self.total = 0, len(requests)
            answers = super().loglikelihood(requests, disable_tqdm=True)
            self._tell(self.total)
            return answers

        def _model_call(self, inps: Any, *args: Any, **options: Any) -> Any:
            logits = super()._model_call(inps, *args, **options)
            # Answers of one token to one question share a row.
            self._tell(min(self.done + len(inps), self.total))
            return logits

        def _tell(self, done: int) -> None:
            self.done = done
            if on_request is not None and self.total:
                on_request(done, self.total)

    return Watched(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
