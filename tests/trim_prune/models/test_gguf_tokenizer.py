from __future__ import annotations

from pathlib import Path

import pytest

from trim_prune.models import gguf
from trim_prune.models.gguf import SENTENCES, tokenizer_problems

FILE = Path("model.gguf")


class FakeTokenizer:
    """One token per character; ``loses`` are characters that do not come back."""

    bos_token_id = 0

    def __init__(self, loses="", adds_bos=False, names=None):
        self.alphabet = ["<s>", *sorted({character for sentence in (*SENTENCES, "a") for character in sentence})]
        self.loses, self.adds_bos, self.names = loses, adds_bos, names or self.alphabet

    def __len__(self):
        return len(self.names)

    def __call__(self, text, add_special_tokens=True):
        bos = [0] if self.adds_bos and add_special_tokens else []
        return {"input_ids": bos + [self.alphabet.index(c) for c in text if c not in self.loses]}

    def decode(self, ids, clean_up_tokenization_spaces):
        assert not clean_up_tokenization_spaces
        return "".join(self.alphabet[i] for i in ids)

    def convert_ids_to_tokens(self, ids):
        return [self.names[i] for i in ids]


@pytest.fixture
def stored(monkeypatch):
    """What the GGUF file is said to hold."""

    def hold(names, adds_bos=None):
        monkeypatch.setattr(gguf, "_stored", lambda file: (names, adds_bos))

    return hold


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_faithful_tokenizer_has_no_problems(stored, adds_bos):
    tokenizer = FakeTokenizer(adds_bos=adds_bos)
    stored(tokenizer.names, adds_bos)
    assert tokenizer_problems(tokenizer, FILE) == []


def test_text_that_does_not_come_back_is_shown(stored):
    tokenizer = FakeTokenizer(loses="é")
    stored(tokenizer.names)
    (problem,) = tokenizer_problems(tokenizer, FILE)
    assert "does not round-trip" in problem
    assert repr(SENTENCES[1]) in problem


def test_tokens_that_differ_are_counted(stored):
    tokenizer = FakeTokenizer()
    stored(["<bos>", *tokenizer.names[1:], "extra"])
    (problem,) = tokenizer_problems(tokenizer, FILE)
    size = len(tokenizer)
    assert f"1 tokens differ, {size} tokens against {size + 1}" in problem


@pytest.mark.parametrize("adds", [True, False])
def test_another_bos_rule_is_pointed_out(stored, adds):
    tokenizer = FakeTokenizer(adds_bos=not adds)
    stored(tokenizer.names, adds)
    (problem,) = tokenizer_problems(tokenizer, FILE)
    assert ("adds BOS" if adds else "does not add BOS") in problem


def test_a_file_without_stored_tokens_is_not_compared(stored):
    stored(None)
    assert tokenizer_problems(FakeTokenizer(), FILE) == []


def test_a_file_without_a_bos_rule_is_not_compared(stored):
    tokenizer = FakeTokenizer(adds_bos=True)
    stored(tokenizer.names, None)
    assert tokenizer_problems(tokenizer, FILE) == []
