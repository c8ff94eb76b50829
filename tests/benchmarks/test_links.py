"""What the documents of the repository point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document):
    targets = [target for target in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_result_files_that_are_named_exist():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:results/)?[a-z0-9_-]+\.json)`", text)
    assert named
    assert [name for name in named if not (ROOT / "benchmarks" / "results" / Path(name).name).exists()] == []
