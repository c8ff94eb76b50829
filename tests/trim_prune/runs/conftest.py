from __future__ import annotations

import pytest

TELLING_TIMES = {"run.json", "events.jsonl", "report.json", "report.html", "README.md"}


@pytest.fixture
def content():
    """The files of an output folder, without what tells of times."""

    def read(folder):
        names = [path.name for path in folder.iterdir() if path.name not in TELLING_TIMES]
        return {name: (folder / name).read_bytes() for name in names}

    return read
