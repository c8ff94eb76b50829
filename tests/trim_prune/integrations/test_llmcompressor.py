"""llm-compressor's own modifiers with our kernels.

Its release 0.14 wants transformers 5.17 at most, so it is not among the packages of the other tests. These run in an
environment of their own, made with ``pip install '.[prune,llmcompressor,dev]'``.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from trim_kernels import testing

REASON = "llmcompressor is not installed: its current release wants an older transformers"
pytest.importorskip("llmcompressor", reason=REASON)
# What it warns about is not ours.
pytestmark = pytest.mark.filterwarnings("default")

MODIFIERS = "llmcompressor.modifiers.pruning"


@pytest.fixture
def bases(monkeypatch):
    """Its two modules, as they were again after the test."""
    found = {kind: importlib.import_module(f"{MODIFIERS}.{kind}.base") for kind in ("wanda", "sparsegpt")}
    for module in found.values():
        monkeypatch.setattr(module, "sparsify_weight", module.sparsify_weight)
    return found


def linear(dtype):
    weight, inputs, _ = testing.heavy_tailed(48, 160, 64)
    module = nn.Linear(160, 48, bias=False, dtype=dtype)
    module.weight.data = weight.to(dtype)
    return module, inputs


def both(base, *arguments):
    """What it finds, and what it finds once accelerated, each with its own copy of the statistics."""
    from trim_prune.integrations.llmcompressor import accelerate_llmcompressor

    def run():
        module, statistics, *rest = arguments
        own = {module: statistics.clone()}
        with torch.no_grad():
            found = base.sparsify_weight(module, own, *rest)
        assert own == {}
        return found

    theirs = run()
    accelerate_llmcompressor()
    accelerate_llmcompressor()
    return theirs, run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("choice", [(0.37, 0, 0), (0.5, 2, 4)], ids=["rows", "2:4"])
def test_wanda_to_the_bit(choice, dtype, bases):
    module, inputs = linear(dtype)
    theirs, ours = both(bases["wanda"], module, inputs.square().sum(1), *choice)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("choice", [(0.5, 0, 0), (0.5, 2, 4)], ids=["blocks", "2:4"])
def test_sparsegpt_but_for_rounding(choice, bases):
    module, inputs = linear(torch.float32)
    (loss, theirs), (our_loss, ours) = both(bases["sparsegpt"], module, inputs @ inputs.t(), *choice, 128, 0.01, False)
    same = (ours == 0) == (theirs == 0)
    assert same.double().mean() > 0.999
    torch.testing.assert_close(ours[same], theirs[same], rtol=1e-3, atol=1e-5)
    assert our_loss == pytest.approx(loss, rel=1e-3)


def test_sparsegpt_that_preserves_a_mask_stays_theirs(bases):
    module, inputs = linear(torch.float32)
    module.weight.data[:, ::3] = 0
    (_, theirs), (_, ours) = both(bases["sparsegpt"], module, inputs @ inputs.t(), 0.5, 0, 0, 128, 0.01, True)
    assert torch.equal(ours, theirs)


def test_a_whole_run(bases, tokenizer, tmp_path):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import WandaPruningModifier
    from tiny_models import linears_of, make_model, random_tokens, save_model

    from trim_prune.integrations.llmcompressor import accelerate_llmcompressor

    save_model(tmp_path / "model", make_model("llama"), tokenizer)
    tokens = random_tokens(8, 16).tolist()
    data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * 16] * 8})
    weights = []
    for accelerated in (False, True):
        if accelerated:
            accelerate_llmcompressor()
        recipe = WandaPruningModifier(sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["lm_head"])
        model = oneshot(
            model=str(tmp_path / "model"),
            dataset=data,
            recipe=recipe,
            num_calibration_samples=8,
            max_seq_length=16,
            pipeline="sequential",
        )
        weights.append({name: linear.weight.detach() for name, linear in linears_of(model, "llama").items()})
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
    assert all(int((weight == 0).sum()) * 2 == weight.numel() for weight in weights[0].values())
