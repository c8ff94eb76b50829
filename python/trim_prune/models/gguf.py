"""GGUF files: what transformers makes of the tokenizer inside, and not parsing them again and again."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Café, naïve, 東京, Привет, 😀 and ½.",
    "  two leading spaces,   three inside\nand\n\nnew lines\tand a tab",
    "def f(x):\n    return x ** 2  # 3.14159",
)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Share one parsed file among all who read it inside this context.

    transformers parses a GGUF file for the configuration, for the weights and for the tokenizer; each time takes
    seconds, most of them for the vocabulary.
    """
    import gguf

    reader = gguf.GGUFReader
    parse = functools.cache(reader)
    gguf.GGUFReader = lambda path: parse(os.path.realpath(path))  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        gguf.GGUFReader = reader  # type: ignore[misc]


def tokenizer_problems(tokenizer: Any, gguf: Path) -> list[str]:
    """Warnings about a converted tokenizer: text that does not survive, a vocabulary or BOS rule that differs."""
    problems = []
    lost = [text for text in SENTENCES if _round_trip(tokenizer, text) != text]
    if lost:
        problems.append(f"the tokenizer converted from GGUF does not round-trip text: {lost[0]!r} comes back changed")
    vocabulary, adds_bos = _stored(gguf)
    if vocabulary is not None:
        names = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(vocabulary))))
        wrong = sum(ours != stored for ours, stored in zip(names, vocabulary, strict=False))
        if wrong or len(tokenizer) != len(vocabulary):
            problems.append(
                f"the tokenizer converted from GGUF differs from the stored vocabulary: {wrong} tokens differ, "
                f"{len(tokenizer)} tokens against {len(vocabulary)}"
            )
    ids = tokenizer("a")["input_ids"]
    adds = bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    if adds_bos is not None and adds != adds_bos:
        problems.append(
            f"the GGUF file says that the tokenizer {'adds' if adds_bos else 'does not add'} BOS; "
            f"the converted one {'does' if adds else 'does not'}"
        )
    return problems


def _round_trip(tokenizer: Any, text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _stored(gguf: Path) -> tuple[list[str] | None, bool | None]:
    """The vocabulary and the BOS rule of the file; None where it holds none."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    tokens, adds_bos = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.add_bos_token")
    return None if tokens is None else tokens.contents(), None if adds_bos is None else bool(adds_bos.contents())
