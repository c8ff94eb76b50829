"""What a callback of a run owes: for authors of plug-ins."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

Facts = dict[str, Any]
BLOCKS = 2
LINEAR: Mapping[str, Any] = {
    "name": "model.layers.0.mlp.up_proj",
    "weight": "model.layers.0.mlp.up_proj.weight",
    "block": 0,
    "shape": [48, 32],
    "prune_count": 768,
    "row_min": 16,
    "row_max": 16,
    "kept_zeros": 0,
    "seconds": 0.25,
    "steps": [],
    "sparsity": 0.5,
}
"""What is always known of a linear."""
KNOWN: Mapping[str, Any] = {
    "quality": 0.75,
    "baseline_quality": 0.5,
    "learning_rate": 0.01,
    "iteration": 3,
    "output_error": 0.125,
    "tokens": 512,
    "pattern": "keep 2 of 4",
    "permuted": [0.5, 0.75],
}
"""What is known of some."""


class Callback(Protocol):
    """The methods that a run calls; see :class:`trim_prune.Callback`."""

    def on_plan(self, facts: Mapping[str, Any]) -> None: ...
    def on_block_start(self, facts: Mapping[str, Any]) -> None: ...
    def on_linear(self, facts: Mapping[str, Any]) -> None: ...
    def on_block_end(self, facts: Mapping[str, Any]) -> None: ...
    def on_save(self, facts: Mapping[str, Any]) -> None: ...


def check_callback(make: Callable[[], Callback]) -> None:
    """Have a callback of ``make()`` follow some runs that prune nothing: a new one for each of them.

    A run with a folder to write and one without; one that goes on after its first block, of whose linears it tells
    nothing; one of whose linears only what is always known is told; and one that takes whole heads and channels, which
    tells of blocks and of what is written only. The callback must raise nothing, leave the facts as they are, and
    change no file of the folder, to which it may add others.

    Raises:
        AssertionError: what is wrong, and in which run.
    """
    for run, calls in _runs().items():
        callback = make()
        for method, facts in calls:
            try:
                _call(callback, method, facts)
            except Exception as error:
                raise AssertionError(f"{method} in {run}: {type(error).__name__}: {error}") from error


def _runs() -> dict[str, list[tuple[str, Facts]]]:
    whole = list(_walk(known=True))
    save: tuple[str, Facts] = ("on_save", {})
    part = {"block": 0, "kind": "feed-forward", "units": 48, "kept": 40, "seconds": 0.25}
    ends = [("on_block_end", _ended(block) | {"parts": [part | {"block": block}]}) for block in range(BLOCKS)]
    return {
        "a run that writes": [*whole, save],
        "a run in memory": whole,
        "a run of which little is known": [*_walk(known=False), save],
        "a run that goes on": [*_walk(known=True, first=1), save],
        "a run that takes heads and channels": [*ends, save],
    }


def _walk(*, known: bool, first: int = 0) -> Iterator[tuple[str, Facts]]:
    linears = [_linear(block, known) for block in range(BLOCKS)]
    told = ("name", "block", "shape", "prune_count")
    planned = [{key: linear[key] for key in told} | {"pattern": linear.get("pattern")} for linear in linears]
    yield "on_plan", {"linears": planned}
    qualities = {"quality": 0.75, "baseline_quality": 0.5} if known else {"quality": None, "baseline_quality": None}
    for block in range(first, BLOCKS):
        yield "on_block_start", {"block": block, "blocks": BLOCKS, "name": f"model.layers.{block}"}
        yield "on_linear", linears[block]
        yield "on_block_end", _ended(block) | qualities


def _linear(block: int, known: bool) -> Facts:
    names = {key: str(LINEAR[key]).replace("0", str(block), 1) for key in ("name", "weight")}
    return {**LINEAR, **names, "block": block, **(KNOWN if known else {})}


def _ended(block: int) -> Facts:
    return {"block": block, "blocks": BLOCKS, "seconds": 1.5}


def _call(callback: Callback, method: str, facts: Facts) -> None:
    if method != "on_save":
        _tell(callback, method, facts)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        files = {folder / "run.json": b'{"version": 1}\n', folder / "model.safetensors": b"weights"}
        for file, content in files.items():
            file.write_bytes(content)
        _tell(callback, method, facts | {"folder": str(folder)})
        changed = [file.name for file, content in files.items() if not file.is_file() or file.read_bytes() != content]
        if changed:
            raise ValueError(f"expected the files of the run as they were, got changes in {', '.join(changed)}")


def _tell(callback: Callback, method: str, facts: Facts) -> None:
    given = copy.deepcopy(facts)
    getattr(callback, method)(given)
    if given != facts:
        raise ValueError("expected the facts untouched, got other values in them")
