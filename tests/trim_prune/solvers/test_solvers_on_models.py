from __future__ import annotations

import pytest
import torch
from tiny_models import linears_of, make_model

from trim_kernels import unpack_bits
from trim_prune import prune
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.scores import SCORES

CALIBRATION = {"samples": 6, "seqlen": 16, "batch_size": 4, "device": "cpu"}


@pytest.mark.parametrize("solver", ["swaps", "alps"])
@pytest.mark.parametrize("rows", ROW_BUDGETS.names())
@pytest.mark.parametrize("score", SCORES.names())
def test_every_combination_is_exact(score, rows, solver, tokenizer, text):
    model = make_model("llama")
    recipe = {"sparsity": 0.6, "score": score, "rows": rows, "solver": solver, **CALIBRATION}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    weights = {f"{name}.weight": linear.weight for name, linear in linears_of(model, "llama").items()}
    assert result.sparsity.pruned == round(0.6 * sum(weight.numel() for weight in weights.values()))
    for name, mask in result.masks.items():
        kept = unpack_bits(mask, weights[name].shape[1])
        assert not weights[name][~kept].any()
        assert weights[name].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("solver", ["swaps", "alps"])
def test_half_models_are_exact_too(dtype, solver, tokenizer, text):
    model = make_model("qwen2", dtype=dtype)
    recipe = {"sparsity": 0.5, "rows": "uniform", "solver": solver, **CALIBRATION}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.of_prunable == 0.5
    assert all(int(linear.row_max) - int(linear.row_min) <= 1 for linear in result.linears)
