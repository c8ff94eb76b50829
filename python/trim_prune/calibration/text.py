"""Where text comes from: local files, strings, or a named dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import TrimPruneError, nearest

TextSource = str | Path | Sequence[str]


@dataclass(frozen=True)
class Text:
    """Documents, and a name for them that tells exactly which they are.

    ``endless``: a remote dataset, read only as far as needed. ``split``: of the dataset, if the text is of one.
    """

    name: str
    documents: Iterable[str]
    endless: bool = False
    split: str | None = None


@dataclass(frozen=True)
class _Split:
    file: str
    documents: int | None = None


@dataclass(frozen=True)
class _Dataset:
    builder: str
    splits: dict[str, _Split]
    held_out: str


# Plain data files, never dataset scripts: `datasets` 4 and later refuse to run those.
_WIKITEXT = "hf://datasets/Salesforce/wikitext/wikitext-2-raw-v1"
_C4 = "hf://datasets/allenai/c4/en"
DATASETS = {
    "wikitext": _Dataset(
        "parquet",
        {split: _Split(f"{_WIKITEXT}/{split}-00000-of-00001.parquet") for split in ("train", "validation", "test")},
        held_out="test",
    ),
    "c4": _Dataset(
        "json",
        {
            "train": _Split(f"{_C4}/c4-train.00000-of-01024.json.gz"),
            # The first 1100 documents: the held-out text of the published comparisons.
            "validation": _Split(f"{_C4}/c4-validation.00000-of-00008.json.gz", documents=1100),
        },
        held_out="validation",
    ),
}


def open_text(source: TextSource, *, field: str = "text", held_out: bool = False) -> Text:
    """Text from a .txt file, a .jsonl file (one object a line), strings, or a dataset (``c4``, ``wikitext:test``).

    A dataset without a split means its training split, or its held-out one if ``held_out``.
    """
    if not isinstance(source, (str, Path)):
        return _from_strings(source)
    path = Path(source)
    if is_file(path):
        return Text(str(path), _read_jsonl(path, field) if path.suffix in (".jsonl", ".ndjson") else [_read(path)])
    name, _, split = str(source).partition(":")
    if name in DATASETS:
        return _from_dataset(name, split or (DATASETS[name].held_out if held_out else "train"))
    raise TrimPruneError(
        f"no text at {str(source)!r}: neither a file nor a known dataset",
        expected=f"a .txt file, a .jsonl file with a field {field!r}, or one of {', '.join(DATASETS)}",
        got="a folder" if path.is_dir() else None,
        fix=nearest(name, DATASETS) or None,
    )


def is_file(path: Path) -> bool:
    """Whether text is in a local file; a name that cannot be one is an error."""
    try:
        return path.is_file()
    except OSError as error:
        raise TrimPruneError(
            f"no text at {str(path)[:40] + '...'!r}: {error.strerror}",
            expected="the name of a file or of a dataset",
            fix="text itself goes into a list of strings",
        ) from None


def _from_strings(documents: Sequence[str]) -> Text:
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            raise TrimPruneError("text must be strings", where=f"item {index}", got=type(document).__name__)
    return Text(f"{len(documents)} strings", documents)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TrimPruneError("the text is not UTF-8", where=f"{path}, byte {error.start}") from None
    except OSError as error:
        raise TrimPruneError(f"cannot read the text: {error.strerror}", where=str(path)) from None


def _read_jsonl(path: Path, field: str) -> list[str]:
    documents = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TrimPruneError(f"not JSON: {error.msg}", where=f"{path}, line {number}") from None
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            got = f"the fields {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
            raise TrimPruneError(
                f"no text in field {field!r}",
                where=f"{path}, line {number}",
                got=got,
                fix="name the field: --text-field NAME",
            )
        documents.append(record[field])
    return documents


def _from_dataset(name: str, split: str) -> Text:
    dataset = DATASETS[name]
    if split not in dataset.splits:
        raise TrimPruneError(f"dataset {name!r} has no split {split!r}", expected=", ".join(dataset.splits))
    chosen = dataset.splits[split]
    try:
        import datasets
    except ImportError:
        raise TrimPruneError(
            f"dataset {name!r} needs the package datasets",
            fix="pip install datasets, or give a local .txt or .jsonl file",
        ) from None
    try:
        rows = datasets.load_dataset(dataset.builder, data_files={split: chosen.file}, split=split, streaming=True)
        stream = iter(rows)
        first = next(stream)
    except Exception as error:
        raise _unreachable(name, chosen.file, error) from error
    documents = _stream(name, chosen.file, first, stream)
    return Text(f"{name}:{split} ({chosen.file})", islice(documents, chosen.documents), endless=True, split=split)


def _stream(name: str, file: str, first: dict[str, str], rest: Iterator[dict[str, str]]) -> Iterator[str]:
    yield first["text"]
    try:
        for row in rest:
            yield row["text"]
    except Exception as error:
        raise _unreachable(name, file, error) from error


def _unreachable(name: str, file: str, error: Exception) -> TrimPruneError:
    return TrimPruneError(
        f"dataset {name!r} cannot be reached (offline?)",
        where=file,
        got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        fix="connect to the network, or give a local .txt or .jsonl file",
    )
