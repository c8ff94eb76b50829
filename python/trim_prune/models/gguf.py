"""What transformers makes of the tokenizer inside a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Café, naïve, 東京, Привет, 😀 and ½.",
    "  two leading spaces,   three inside\nand\n\nnew lines\tand a tab",
    "def f(x):\n    return x ** 2  # 3.14159",
)


def tokenizer_problems(tokenizer: Any, gguf: Path) -> list[str]:
    """Warnings about a converted tokenizer: text that does not survive, a vocabulary or BOS rule that differs."""
    problems = []
    lost = [text for text in SENTENCES if _round_trip(tokenizer, text) != text]
    if lost:
        problems.append(f"the tokenizer converted from GGUF does not round-trip text: {lost[0]!r} comes back changed")
    vocabulary, adds_bos = _stored(gguf)
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


def _stored(gguf: Path) -> tuple[list[str], bool | None]:
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    adds_bos = fields.get("tokenizer.ggml.add_bos_token")
    return fields["tokenizer.ggml.tokens"].contents(), None if adds_bos is None else bool(adds_bos.contents())
