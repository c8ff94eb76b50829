"""README.md of a pruned folder: the model card that a hub shows, from the facts of the run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..files import write_atomically
from ..models.load import PACKED_FILE, STRUCTURE_FILE
from .card_parts import about
from .evaluated import evaluated_tables
from .run import Run

CARD_FILE = "README.md"
_MARK = re.compile(r"<!-- Written by trim-prune; digest of the rest ([0-9a-f]{64}) -->\n\Z")


def write_card(run: Run, derived: Mapping[str, Any]) -> bool:
    """Write the card unless there is one that somebody wrote or changed; returns whether it was written."""
    file = run.folder / CARD_FILE
    if file.exists() and not is_our_card(file):
        return False
    card = model_card(run, derived)
    write_atomically(file, f"{card}<!-- Written by trim-prune; digest of the rest {_digest(card)} -->\n")
    return True


def is_our_card(file: Path) -> bool:
    """Whether a card is there, and as it was written here."""
    if not file.is_file():
        return False
    card = file.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def model_card(run: Run, derived: Mapping[str, Any]) -> str:
    """The card in Markdown, with the values at its head that model hubs read."""
    facts, told = run.facts, about(run, derived)
    own = _why_not_transformers(run.folder)
    head: dict[str, Any] = {"library_name": "transformers"} if own is None else {}
    head["pipeline_tag"] = "text-generation"
    if facts["hub_id"]:
        head["base_model"] = facts["hub_id"]
    if facts["license"]:
        head["license"] = facts["license"]
    head["tags"] = ["pruned", *told.tags, "trim-prune"]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
        "---",
        f"# {_plain(run.model)}, {told.title}",
        "",
        f"{_plain(run.model)} with {told.what}, made by trim-prune {__version__}. " + _plain(" ".join(told.words)),
        "",
        *told.table,
        "",
        "## How to load it",
        "",
        *_loading(run.name, own),
        f"tokenizer = AutoTokenizer.from_pretrained({run.name!r})",
        "```",
        "",
        "## What to expect",
        "",
        *(f"- **{heading}.** {_plain(text)}" for heading, text in told.honest),
        "",
        "## Evaluation",
        "",
        *_evaluations(run),
        "## License",
        "",
        f"`{facts['license']}`, as the dense model's files say." if facts["license"] else _NO_LICENSE,
        "",
        told.files,
        "",
    ]
    return "\n".join(lines)


def _why_not_transformers(folder: Path) -> str | None:
    """Why a folder is loaded by trim_prune; None if it is a model folder like any other."""
    if (folder / PACKED_FILE).is_file():
        return "It is packed: only the weights that stay are stored, which transformers cannot read"
    if (folder / STRUCTURE_FILE).is_file():
        return "Its blocks differ in size, which transformers cannot read"
    return None


def _loading(name: str, own: str | None) -> list[str]:
    if own is None:
        return [
            "Like the dense model:",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'model = AutoModelForCausalLM.from_pretrained({name!r}, dtype="auto")',
        ]
    return [
        f"{own}; with `pip install 'trim-kernels[prune]'`:",
        "",
        "```python",
        "import trim_prune",
        "from transformers import AutoTokenizer",
        "",
        f"model = trim_prune.load({name!r})",
    ]


_NO_LICENSE = "The dense model's license applies; its files do not name it in a form that could be copied here."


def _evaluations(run: Run) -> list[str]:
    tables = evaluated_tables(run.evaluations)
    if not tables:
        return ["Not evaluated.", ""]
    lines = []
    for table in tables:
        lines += [
            f"{_plain(table.title)}:",
            "",
            "| " + " | ".join(heading for heading, _ in table.columns) + " |",
            "|---" * len(table.columns) + "|",
            *("| " + " | ".join(_plain(value) for value in row) + " |" for row in table.rows),
            "",
            _plain(table.protocol),
            "",
        ]
    return lines


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()
