from __future__ import annotations

import pytest

from trim_prune import TrimPruneError
from trim_prune.calibration.text import Text, open_text
from trim_prune.calibration.tokens import OVERSAMPLING, calibration_tokens


def sample(tokenizer, documents, samples=4, seqlen=10, seed=0):
    return calibration_tokens(tokenizer, open_text(documents), samples=samples, seqlen=seqlen, seed=seed)


def packed(tokenizer, documents):
    """The documents' tokens without BOS, joined by the end-of-text token."""
    ids = []
    for index, document in enumerate(documents):
        ids += [tokenizer.eos_token_id] * (index > 0) + tokenizer(document, add_special_tokens=False)["input_ids"]
    return ids


def test_samples_are_the_named_windows_of_the_packed_text(tokenizer, text):
    documents = [text[:37], text[37:90], "", text[90:200]]
    found = sample(tokenizer, documents)
    ids = packed(tokenizer, documents)
    assert found.windows == len(ids) // 10
    for window, tokens in zip(found.sample_ids, found.token_ids.tolist(), strict=True):
        assert tokens == ids[window * 10 : window * 10 + 10]


def test_the_same_seed_takes_the_same_samples(tokenizer, text):
    first, second = sample(tokenizer, [text]), sample(tokenizer, [text])
    assert first.sample_ids == second.sample_ids
    assert first.token_ids.equal(second.token_ids)


def test_another_seed_takes_others(tokenizer, text):
    assert sample(tokenizer, [text], seed=1).sample_ids != sample(tokenizer, [text], seed=2).sample_ids


def test_samples_do_not_overlap(tokenizer, text):
    found = sample(tokenizer, [text[:100]], samples=10)
    assert sorted(found.sample_ids) == list(range(10))


def test_too_little_text_says_how_much_there_is(tokenizer):
    with pytest.raises(TrimPruneError) as error:
        sample(tokenizer, ["a" * 25, "b" * 9], samples=4, seqlen=10)
    assert error.value.expected == "4 sequences of 10 tokens: 40 tokens"
    assert error.value.got == "35 tokens: 3 sequences"
    assert error.value.where == "2 strings"


def test_just_enough_text_is_enough(tokenizer):
    assert sample(tokenizer, ["a" * 40]).windows == 4


def test_an_endless_text_is_read_only_as_far_as_needed(tokenizer):
    read = []

    def documents():
        while True:
            read.append(1)
            yield "a" * 20

    text = Text("endless", documents(), endless=True)
    found = calibration_tokens(tokenizer, text, samples=4, seqlen=10, seed=0)
    assert found.windows == OVERSAMPLING * 4
    assert len(read) == 8


def test_batches_keep_the_order_and_the_last_may_be_smaller(tokenizer, text):
    found = sample(tokenizer, [text], samples=5)
    batches = found.batches(2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [row for batch in batches for row in batch.tolist()] == found.token_ids.tolist()
