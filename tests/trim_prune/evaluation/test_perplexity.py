from __future__ import annotations

import hashlib
import math

import pytest
import torch
from tiny_models import make_model, make_tokenizer
from tokenizers import processors

from trim_prune import TrimPruneError, evaluate, perplexity
from trim_prune.evaluation import perplexity as module
from trim_prune.evaluation.protocol import differences


@torch.no_grad()
def directly(model, tokenizer, documents, seqlen, windows=None):
    """exp of the mean loss that transformers itself gives, window by window."""
    ids = torch.tensor(tokenizer("\n\n".join(documents))["input_ids"])
    cut = [ids[start : start + seqlen] for start in range(0, len(ids) - seqlen + 1, seqlen)][:windows]
    losses = [model(input_ids=window[None], labels=window[None]).loss for window in cut]
    return math.exp(torch.stack(losses).double().mean()), len(cut)


@pytest.mark.parametrize("seqlen", [2, 17, 64])
def test_equals_the_loss_of_transformers(family, seqlen, tokenizer, text):
    model = make_model(family)
    documents = [text[:300], text[300:411]]
    expected, windows = directly(model, tokenizer, documents, seqlen)
    found = perplexity(model, tokenizer, documents, seqlen=seqlen)
    assert found.perplexity == pytest.approx(expected, rel=1e-5)
    assert (found.windows, found.tokens, found.seqlen) == (windows, windows * seqlen, seqlen)


@pytest.mark.parametrize(("length", "windows"), [(31, 2), (32, 2), (46, 2), (47, 3)])
def test_a_partial_last_window_is_dropped(length, windows, tokenizer, text):
    found = perplexity(make_model("llama"), tokenizer, [text[:length]], seqlen=16)  # BOS is one token more
    assert found.windows == windows


def test_max_windows_takes_the_first(tokenizer, text):
    model = make_model("llama")
    found = perplexity(model, tokenizer, [text], seqlen=16, max_windows=3)
    assert found.perplexity == pytest.approx(directly(model, tokenizer, [text], 16, 3)[0], rel=1e-5)
    assert found.windows == 3


def test_the_bos_rule_is_the_tokenizers(text):
    without = make_tokenizer()
    without.backend_tokenizer.post_processor = processors.ByteLevel()
    model = make_model("llama")
    found = {rule: perplexity(model, t, [text], seqlen=16) for rule, t in (("yes", make_tokenizer()), ("no", without))}
    assert found["yes"].bos == "BOS once at the start"
    assert found["no"].bos == "no BOS"
    assert found["no"].perplexity == pytest.approx(directly(model, without, [text], 16)[0], rel=1e-5)
    assert found["no"].perplexity != found["yes"].perplexity


def test_the_size_of_the_batches_does_not_matter(tokenizer, text, monkeypatch):
    model = make_model("llama")
    whole = perplexity(model, tokenizer, [text], seqlen=16)
    monkeypatch.setattr(module, "LOGIT_BYTES", 3 * 4 * 258 * 16)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    calls = []
    parts = perplexity(model, tokenizer, [text[:112]], seqlen=16, on_batch=lambda *done: calls.append(done))
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert perplexity(model, tokenizer, [text], seqlen=16).perplexity == pytest.approx(whole.perplexity, rel=1e-6)
    assert parts.windows == 7


@pytest.mark.parametrize(
    ("seqlen", "message"),
    [
        (1, "fewer than 2 tokens"),
        (65, r"longer than the model's context(.|\n)*at most 64(.|\n)*65"),
        (50, r"too little text for one window(.|\n)*at least 50 tokens(.|\n)*got:\s+41 tokens"),
    ],
)
def test_what_cannot_be_measured_is_explained(seqlen, message, tokenizer, text):
    with pytest.raises(TrimPruneError, match=message):
        perplexity(make_model("llama"), tokenizer, [text[:40]], seqlen=seqlen)


def test_predictions_that_are_not_numbers_are_an_error(tokenizer, text):
    model = make_model("llama")
    model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(TrimPruneError, match="predictions hold NaN or infinity"):
        perplexity(model, tokenizer, [text], seqlen=16)


def test_a_hopeless_model_has_a_finite_perplexity(tokenizer, text):
    model = make_model("llama")
    model.lm_head.weight.data.mul_(1e6)
    assert perplexity(model, tokenizer, [text], seqlen=16).perplexity == pytest.approx(math.exp(700))


def test_the_protocol_tells_the_text_and_the_tokens_apart(tokenizer, text):
    model = make_model("llama")
    found = perplexity(model, tokenizer, [text[:200]], seqlen=16)
    ids = torch.tensor(tokenizer(text[:200])["input_ids"])[: found.tokens]
    assert found.text_sha256 == hashlib.sha256(text[:200].encode()).hexdigest()
    assert found.tokens_sha256 == hashlib.sha256(ids.numpy().tobytes()).hexdigest()
    assert found.dtype == "float32"
    longer = perplexity(model, tokenizer, [text[:201]], seqlen=16)
    assert differences(found.protocol, longer.protocol) == [
        f"text sha256 {found.text_sha256[:12]} and {longer.text_sha256[:12]}"
    ]
    half = perplexity(make_model("llama", dtype=torch.bfloat16), tokenizer, [text[:200]], seqlen=16)
    assert differences(found.protocol, half.protocol) == ["dtype float32 and bfloat16"]


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_left_in_its_mode(fails, tokenizer, text):
    model = make_model("llama").train()
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()]
    if fails:
        with pytest.raises(ZeroDivisionError):
            perplexity(model, tokenizer, [text], seqlen=16, on_batch=lambda done, windows: 1 // 0)
    else:
        perplexity(model, tokenizer, [text], seqlen=16)
    assert [m.training for m in model.modules()] == before


def test_evaluate_loads_a_folder_and_measures_a_file(llama_folder, text, text_file, tokenizer):
    found = evaluate(llama_folder, text_file, seqlen=32, device="cpu")
    assert found.perplexity == pytest.approx(directly(make_model("llama"), tokenizer, [text], 32)[0], rel=1e-5)
    assert found.data == str(text_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "toaster"}, "device 'toaster' cannot be used"), ({"dtype": "flaot16"}, "unknown dtype 'flaot16'")],
    ids=["device", "dtype"],
)
def test_evaluate_refuses_unknown_names(options, message, llama_folder, text_file):
    with pytest.raises(TrimPruneError, match=message):
        evaluate(llama_folder, text_file, **options)
