from __future__ import annotations

import pytest


@pytest.fixture
def content():
    """The files of an output folder, without what tells of times."""

    def read(folder):
        names = [path.name for path in folder.iterdir() if path.name not in ("run.json", "events.jsonl")]
        return {name: (folder / name).read_bytes() for name in names}

    return read
