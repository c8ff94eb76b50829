"""The output folder: refused before it costs anything, renamed when it is whole."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import TrimPruneError


def protect_inputs(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse an output folder that is one of the inputs or holds one: to overwrite it would delete the input.

    ``inputs``: what each one is, and where; those that do not exist (hub ids, dataset names) pass.
    """
    for what, path in inputs.items():
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            own = path.resolve() == out.resolve()
            raise TrimPruneError(
                f"the output folder is the {what}'s own" if own else f"the output folder holds the {what}",
                where=str(out),
                got=str(path),
                fix="choose another --out",
            )


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or that cannot be made; only a model folder is overwritten."""
    if out.exists() and not out.is_dir():
        raise TrimPruneError("the output is not a folder", where=str(out))
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise TrimPruneError(
                "the output folder exists and is not empty",
                where=str(out),
                fix="choose another --out, or --overwrite",
            )
        if not (out / "config.json").is_file():
            raise TrimPruneError(
                "only a model folder is overwritten, and this one has no config.json",
                where=str(out),
                got=", ".join(sorted(path.name for path in out.iterdir())[:8]),
                fix="choose another --out, or remove the folder yourself",
            )
    existing = next(parent for parent in (out, *out.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise TrimPruneError("the output folder cannot be written", where=str(existing))


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the body ends without error, and vanishes if it fails."""
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial-{socket.gethostname()}-{os.getpid()}")
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        repair(out)
        partial.mkdir()
    try:
        yield partial
        with write_errors(out):
            publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def write_errors(out: Path) -> Iterator[None]:
    """A full disk, a missing right or a failing device, in the form of all our errors."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrimPruneError(
            "the output cannot be written",
            where=str(out),
            got=f"{type(error).__name__}: {error}",
            fix="check the rights and the free space of the disk",
        ) from error


def publish(folder: Path, out: Path) -> None:
    """Give a whole model folder its final name, in the place of what has that name now.

    A reader never sees half a model: under the name is the old folder, then for a moment nothing (between two renames),
    then the whole new one. A process killed in that moment leaves the old folder aside, for :func:`repair`.
    """
    _open_to_readers(folder)
    _sync(folder)
    old = _aside(out)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def repair(out: Path) -> None:
    """Put back, or remove, an old folder that a killed process left aside."""
    old = _aside(out)
    if not old.exists():
        return
    if out.exists():
        shutil.rmtree(old)
    else:
        old.rename(out)


def _open_to_readers(folder: Path) -> None:
    # safetensors makes its files readable to their owner only; the folder shows what the user's umask allows.
    allowed = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(allowed)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")
