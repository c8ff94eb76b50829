"""What is pruned stays zero in training, however the model is wrapped or sharded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import linears_of, make_model, random_tokens
from transformers import Trainer, TrainingArguments

from trim_prune import TrimPruneError, keep_zeros, prune
from trim_prune.formats.masks import masks_of
from trim_prune.integrations.trainer import KeepZeros

MAGNITUDE = {"sparsity": 0.6, "score": "magnitude", "rows": "uniform"}


@pytest.fixture
def pruned():
    model = make_model("llama")
    prune(model, MAGNITUDE)
    return model.train()


def zeros_of(model):
    return {name: linear.weight.detach() == 0 for name, linear in linears_of(model, "llama").items()}


def train(model, zeros, steps=3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(steps):
        tokens = random_tokens(2, 12, seed=step)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        zeros.apply()
        optimizer.zero_grad()


def test_training_changes_what_is_kept_and_nothing_else(pruned):
    before, weights = zeros_of(pruned), {n: p.detach().clone() for n, p in pruned.named_parameters()}
    zeros = keep_zeros(pruned)
    train(pruned, zeros)
    for name, linear in linears_of(pruned, "llama").items():
        assert torch.equal(linear.weight == 0, before[name])
        assert not torch.equal(linear.weight, weights[f"{name}.weight"])
    pruned_weights, all_weights = (sum(map(count, before.values())) for count in (torch.sum, torch.numel))
    assert zeros.check() == pytest.approx(float(pruned_weights / all_weights)) == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["named as in the model", "as in files of the bare model"])
def test_masks_given_count_and_not_zeros(prefix, pruned):
    kept = torch.rand(48, 32) < 0.5
    zeros = keep_zeros(pruned, {f"{prefix}layers.0.mlp.up_proj.weight": kept})
    with pytest.raises(TrimPruneError, match=r"pruned weights are not zero any more(.|\n)*\d+ weights"):
        zeros.check()
    zeros.apply()
    assert not pruned.model.layers[0].mlp.up_proj.weight[~kept].any()
    assert zeros.check() == pytest.approx(float((~kept).float().mean()))


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel], ids=["compiled", "in a module"])
def test_wrappers_do_not_matter(wrap, pruned):
    before = zeros_of(pruned)
    zeros = keep_zeros(wrap(pruned))
    train(pruned, zeros)
    assert all(torch.equal(found, before[name]) for name, found in zeros_of(pruned).items())


def test_a_parameter_that_is_replaced_is_masked_too(pruned):
    zeros = keep_zeros(pruned)
    linear = pruned.model.layers[0].mlp.up_proj
    linear.weight = torch.nn.Parameter(torch.ones_like(linear.weight))
    zeros.apply()
    assert zeros.check() == pytest.approx(0.6, abs=1e-4)
    assert (linear.weight == 0).any()


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_a_layer_with_an_adapter_keeps_its_own_zeros(pruned):
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    masks = {f"{name}.weight": ~zero for name, zero in zeros_of(pruned).items()}
    adapted = peft.get_peft_model(pruned, peft.LoraConfig(r=2, target_modules=["up_proj"]))
    for zeros in (keep_zeros(adapted), keep_zeros(adapted, masks)):
        train(adapted, zeros)
        assert zeros.check() == pytest.approx(0.6, abs=1e-2)


@pytest.mark.parametrize(
    ("masks", "message"),
    [({}, "no masks to keep zeros by"), ({"model.layers.0.mlp.up_proj.weight": torch.ones(48, 32)}, "matrix of bools")],
)
def test_what_are_no_masks_is_refused_at_once(masks, message, pruned):
    with pytest.raises(TrimPruneError, match=message):
        keep_zeros(pruned, masks)


def test_masks_of_another_model_are_refused(pruned):
    for kept, message in (
        ({"model.layers.9.mlp.up_proj.weight": torch.ones(48, 32).bool()}, "name weights that the model has not"),
        ({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2).bool()}, "a mask does not fit its weight"),
    ):
        with pytest.raises(TrimPruneError, match=message):
            keep_zeros(pruned, masks_of(kept, "here")).apply()


def test_the_callback_of_the_trainer(pruned, tmp_path):
    before = zeros_of(pruned)
    callback = KeepZeros()
    data = [{"input_ids": row, "labels": row} for row in random_tokens(8, 12)]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(pruned, arguments, train_dataset=data, callbacks=[callback]).train()
    assert all(torch.equal(found, before[name]) for name, found in zeros_of(pruned).items())
    assert callback.sparsity == pytest.approx(0.6, abs=1e-4)


def test_sharded_over_two_ranks():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("sharded_training_script.py")
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, script],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output[-3000:]
        assert "zeros kept: fsdp, columns" in output
