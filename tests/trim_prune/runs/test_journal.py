from __future__ import annotations

import pytest

from trim_prune.runs.journal import Journal, read_entries

ENTRIES = [{"a": 1}, {"b": [1.5, None, "ü"]}, {"c": {"d": True}}]


@pytest.fixture
def file(tmp_path):
    journal = Journal(tmp_path / "folder" / "journal.jsonl")
    for entry in ENTRIES:
        journal.add(entry)
    journal.close()
    return tmp_path / "folder" / "journal.jsonl"


def entries(file):
    journal = Journal(file)
    found = list(journal.entries)
    journal.close()
    assert read_entries(file) == found
    return found


def test_entries_come_back(file):
    assert entries(file) == ENTRIES


def test_every_length_of_a_torn_file_leaves_whole_entries(file):
    content = file.read_bytes()
    ends = [0]
    for line in content.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    for length in range(len(content) + 1):
        file.write_bytes(content[:length])
        assert entries(file) == ENTRIES[: sum(end <= length for end in ends) - 1]


@pytest.mark.parametrize("kept", range(4))
def test_what_is_forgotten_is_not_in_the_file(kept, file):
    journal = Journal(file)
    journal.keep(kept)
    journal.add({"new": kept})
    journal.close()
    assert entries(file) == [*ENTRIES[:kept], {"new": kept}]


def test_one_process_has_it_at_a_time(file):
    journal = Journal(file)
    with pytest.raises(BlockingIOError):
        Journal(file)
    journal.close()
    assert entries(file) == ENTRIES
