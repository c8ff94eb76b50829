"""The messages that the page on troubleshooting explains are those that the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_message_of_the_page_is_in_the_code():
    texts = []
    for file in (ROOT / "python" / "trim_prune").rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"\*\*`([^`]+)`\*\*", page)
    assert len(messages) > 40
    parts = [part.strip() for message in messages for part in message.split("...") if part.strip()]
    code = "\n".join(texts)
    assert [part for part in parts if re.sub(r"\s+", " ", part) not in code] == []
