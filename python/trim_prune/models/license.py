"""The licence of a model, where its files name one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def card_data(card: Path) -> dict[str, Any]:
    """The values at the head of a model card, between two lines of dashes; none if it has no such head."""
    try:
        parts = card.read_text(encoding="utf-8").split("---\n", 2)
        values = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def license_of_folder(folder: Path) -> str | None:
    """As the folder's model card names it."""
    return _word(card_data(folder / "README.md").get("license"))


def license_of_gguf(file: Path) -> str | None:
    """As the file's own field names it; a file that cannot be read names none, which its reader says for itself."""
    from gguf import GGUFReader

    try:
        found = GGUFReader(file).fields.get("general.license")
    except (OSError, ValueError):
        return None
    return None if found is None else _word(found.contents())


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
