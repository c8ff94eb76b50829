from __future__ import annotations

import datasets
import pytest

from trim_prune import TrimPruneError
from trim_prune.calibration.text import DATASETS, open_text


def test_a_txt_file_is_one_document(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("première ligne\n\nzweite Zeile\n", encoding="utf-8")
    text = open_text(file)
    assert list(text.documents) == ["première ligne\n\nzweite Zeile\n"]
    assert text.name == str(file)


def test_a_jsonl_file_is_one_document_a_line(tmp_path):
    file = tmp_path / "a.jsonl"
    # U+2028 ends a line for str.splitlines, but not in JSONL.
    file.write_text('{"text": "one\u2028two"}\n\n{"text": "three", "other": 1}\n', encoding="utf-8")
    assert list(open_text(file).documents) == ["one\u2028two", "three"]


def test_another_field_of_a_jsonl_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"content": "one"}\n', encoding="utf-8")
    assert list(open_text(file, field="content").documents) == ["one"]


def test_strings_are_documents():
    assert list(open_text(["one", "two"]).documents) == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"not JSON(.|\n)*a\.jsonl, line 2"),
        ('{"content": "x", "id": 3}', r"no text in field 'text'(.|\n)*line 2(.|\n)*content, id(.|\n)*--text-field"),
        ('{"text": 3}', r"no text in field 'text'(.|\n)*line 2"),
        ('["text"]', r"no text in field 'text'(.|\n)*line 2(.|\n)*list"),
    ],
    ids=["bad JSON", "missing field", "not a string", "not an object"],
)
def test_a_bad_jsonl_line_is_named(tmp_path, line, message):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(TrimPruneError, match=message):
        open_text(file)


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"abc\xff\xfe")
    with pytest.raises(TrimPruneError, match=r"not UTF-8(.|\n)*a\.txt, byte 3"):
        open_text(file)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wikitxt", "did you mean 'wikitext'"),
        ("no/such/file.txt", r"neither a file nor a known dataset(.|\n)*wikitext, c4"),
        ("wikitext:tset", r"no split 'tset'(.|\n)*train, validation, test"),
        ("word " * 2000, "text itself goes into a list of strings"),
    ],
    ids=["misspelt dataset", "missing file", "unknown split", "the text itself"],
)
def test_an_unknown_source_is_explained(source, message):
    with pytest.raises(TrimPruneError, match=message):
        open_text(source)


def test_a_folder_is_refused_as_one(tmp_path):
    with pytest.raises(TrimPruneError, match=r"no text at(.|\n)*a folder"):
        open_text(tmp_path)


def test_what_is_not_a_string_is_refused_with_its_index():
    with pytest.raises(TrimPruneError, match=r"must be strings(.|\n)*item 1(.|\n)*int"):
        open_text(["one", 2])


class HttpError(Exception):
    """HTTP libraries raise errors that are no OSError."""


class FakeHub:
    """Stands in for ``datasets.load_dataset``: remembers what was asked for and gives three documents."""

    def __init__(self, fail_after=None, error=ConnectionError):
        self.fail_after, self.error, self.asked = fail_after, error, []

    def __call__(self, builder, *, data_files, split, streaming):
        self.asked.append((builder, data_files, split, streaming))
        return self.rows()

    def rows(self):
        for index in range(3):
            if index == self.fail_after:
                raise self.error("Max retries exceeded\nlong trace")
            yield {"text": f"document {index}"}


@pytest.mark.parametrize(
    ("source", "held_out", "builder", "split"),
    [
        ("c4", False, "json", "train"),
        ("c4", True, "json", "validation"),
        ("wikitext", False, "parquet", "train"),
        ("wikitext", True, "parquet", "test"),
        ("wikitext:validation", True, "parquet", "validation"),
    ],
)
def test_a_dataset_is_read_from_explicit_data_files(monkeypatch, source, held_out, builder, split):
    hub = FakeHub()
    monkeypatch.setattr(datasets, "load_dataset", hub)
    text = open_text(source, held_out=held_out)
    assert list(text.documents) == ["document 0", "document 1", "document 2"]
    file = DATASETS[source.partition(":")[0]].splits[split].file
    assert hub.asked == [(builder, {split: file}, split, True)]
    assert file in text.name
    assert text.endless


@pytest.mark.parametrize("fail_after", [0, 1], ids=["at the start", "midway"])
@pytest.mark.parametrize("kind", [ConnectionError, HttpError])
def test_offline_says_so_and_offers_a_local_file(monkeypatch, fail_after, kind):
    monkeypatch.setattr(datasets, "load_dataset", FakeHub(fail_after, kind))
    with pytest.raises(
        TrimPruneError, match=r"'c4' cannot be reached \(offline\?\)(.|\n)*local .txt or .jsonl"
    ) as error:
        list(open_text("c4").documents)
    assert error.value.got == f"{kind.__name__}: Max retries exceeded"
