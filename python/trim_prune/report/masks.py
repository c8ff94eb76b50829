"""The masks of a run, or an error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE


@contextmanager
def open_masks(folder: Path) -> Iterator[Any]:
    """The open file: packed masks by the name of the weight."""
    try:
        with safe_open(folder / MASK_FILE, "pt") as masks:
            yield masks
    except (OSError, SafetensorError) as error:
        raise TrimPruneError(
            "the masks of the run cannot be read",
            where=str(folder / MASK_FILE),
            got=f"{type(error).__name__}: {error}",
            fix="prune again: a report counts the rows in them",
        ) from error
