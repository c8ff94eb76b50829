"""Small results that are slow to find again, kept between runs in the user's cache folder.

A cache is never needed: what cannot be read counts as empty, and what cannot be written is computed again next time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_file(name: str) -> Path:
    """$XDG_CACHE_HOME/trim-prune/name; ~/.cache if the variable holds no absolute path.

    Raises:
        RuntimeError: the user has no home.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (folder if folder.is_absolute() else Path("~/.cache").expanduser()) / "trim-prune" / name


def read_cache(name: str) -> dict[str, Any]:
    """The entries of a cache; none if the file is missing, unreadable or damaged."""
    try:
        entries = json.loads(cache_file(name).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def extend_cache(name: str, entries: Mapping[str, Any]) -> None:
    """Add entries to those that are there now; a reader sees the old file or the new one.

    Of two processes that write at the same time, the entries of one may be lost.
    """
    with suppress(OSError, RuntimeError):
        file = cache_file(name)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(read_cache(name) | dict(entries)), encoding="utf-8")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
