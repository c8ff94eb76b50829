"""Single files that appear when they are whole, and safetensors that are told apart by their metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import TrimPruneError
from ..models.staging import write_errors


@contextmanager
def new_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A file beside ``path`` that takes its name when the body ends without error, and vanishes if it fails."""
    if path.exists() and not (overwrite and path.is_file()):
        raise TrimPruneError("the output file exists", where=str(path), fix="choose another --out, or --overwrite")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}{path.suffix}")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            allowed = path.parent.stat().st_mode & 0o666
            partial.chmod(allowed)
            partial.replace(path)
    finally:
        with suppress(NotADirectoryError):
            partial.unlink(missing_ok=True)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file; one that cannot be read is a :class:`TrimPruneError`."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise TrimPruneError(
            "not a readable safetensors file", where=str(path), got=f"{type(error).__name__}: {error}"
        ) from error


def read_about(path: Path, text: str | None, name: str, versions: tuple[str, ...]) -> dict[str, Any]:
    """What a file says of itself in JSON: its format must be ``name``, its version one that is understood."""
    try:
        about = json.loads(text or "null")
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("format") != name:
        raise TrimPruneError(f"not a file of the format {name}", where=str(path))
    if str(about.get("version")) not in versions:
        raise TrimPruneError(
            f"the format {name} has a version that this trim_prune does not read",
            where=str(path),
            expected=" or ".join(versions),
            got=str(about.get("version")),
            fix="pip install --upgrade trim-kernels",
        )
    return about
