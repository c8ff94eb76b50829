from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path):
    """The journals of each test are its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trim-prune"
