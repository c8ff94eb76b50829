"""Callbacks: code of others that follows a run, by name or as objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import TrimPruneError
from .events import Event
from .registry import Registry

METHODS = {
    "plan": "on_plan",
    "block_start": "on_block_start",
    "linear": "on_linear",
    "block": "on_block_end",
    "save": "on_save",
}
"""Which event calls which method."""


class Callback:
    """What follows a run: override what is of use. Each method gets the facts of an event, plain values as in JSON.

    A callback sees and does not steer. What it raises ends the run, and nothing is written then. A run that goes on
    after one that stopped tells of what it does itself; a structured prune of ends of blocks and of what is saved only.
    ``trim_kernels.testing.check_callback`` says what a callback owes.
    """

    def on_plan(self, facts: Mapping[str, Any]) -> None:
        """Before anything is pruned: ``linears``, each with name, block, shape, prune_count and pattern."""

    def on_block_start(self, facts: Mapping[str, Any]) -> None:
        """Before a block: its number ``block``, how many ``blocks`` there are, and its ``name``."""

    def on_linear(self, facts: Mapping[str, Any]) -> None:
        """Of each linear of a block that is done: what run.json says of it."""

    def on_block_end(self, facts: Mapping[str, Any]) -> None:
        """After the linears of a block: ``block``, ``blocks``, ``seconds`` and mean qualities (or ``parts``)."""

    def on_save(self, facts: Mapping[str, Any]) -> None:
        """When all files are written: ``folder``, which takes the name of the output after this; files may be added."""


CALLBACKS: Registry[Callable[[], Callback]] = Registry("callback")


def register_callback(name: str) -> Callable[[Callable[[], Callback]], Callable[[], Callback]]:
    """Register a class of callbacks, or a function that makes one, under a name: ``trim-prune prune --callback NAME``.

    Each run makes one of its own.
    """

    def add(make: Callable[[], Callback]) -> Callable[[], Callback]:
        CALLBACKS.register(name, make)
        return make

    return add


class Calls:
    """A listener that calls a callback."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def __call__(self, event: Event) -> None:
        method = METHODS.get(event.kind)
        if method is None:
            return
        try:
            getattr(self.callback, method)(event.data)
        except TrimPruneError:
            raise
        except Exception as error:
            raise TrimPruneError(
                "a callback failed",
                where=f"{type(self.callback).__name__}.{method}",
                got=f"{type(error).__name__}: {error}",
                fix="repair the callback, or run without it",
            ) from error
