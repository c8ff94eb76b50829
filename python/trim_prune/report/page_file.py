"""A page in a file of its own: refused before it costs anything, written when it is whole."""

from __future__ import annotations

from pathlib import Path

from ..errors import TrimPruneError
from ..files import write_atomically
from ..models.staging import write_errors

MARK = '<meta name="generator" content="trim-prune'
"""At the head of every page of ours."""
HEAD = 2000
"""Characters in which it stands."""


def check_page(out: Path, overwrite: bool) -> None:
    """Refuse a file that is no page, and one that is there unless it is a page of ours, or is to be overwritten."""
    if out.suffix != ".html":
        raise TrimPruneError("a page is written to a file", where=str(out), expected="a name that ends with .html")
    if out.is_dir():
        raise TrimPruneError("the output is a folder", where=str(out), fix="give the name of a file in it")
    if out.exists() and not (overwrite or _is_ours(out)):
        raise TrimPruneError(
            "the output file exists and is no page of trim-prune",
            where=str(out),
            fix="choose another --out, or --overwrite",
        )


def write_page(out: Path, page: str) -> None:
    """Write a page, and the folder that it lies in; what was checked before is not checked again."""
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page)


def _is_ours(file: Path) -> bool:
    with write_errors(file), file.open(encoding="utf-8", errors="replace") as text:
        return MARK in text.read(HEAD)
