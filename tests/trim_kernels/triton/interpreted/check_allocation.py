from __future__ import annotations

import pytest
import torch

from trim_kernels import allocate_rows, testing

RATES = {"learning_rates": (0.04, 0.08), "negative_learning_rates": (-0.02,), "iterations": 2}


@pytest.mark.parametrize(("metric", "rounding"), [("cosine", "exact"), ("mse", "floor")])
def test_budgets_are_those_of_the_reference(metric, rounding, device):
    layer = (tensor.to(device) for tensor in testing.heavy_tailed(12, 20, 10))
    weight, inputs, scale = layer
    found = testing.check_allocate_rows(
        "triton",
        weight,
        inputs,
        0.6,
        column_scale=scale,
        layer_metric=metric,
        row_metric=metric,
        rounding=rounding,
        **RATES,
    )
    assert found.trace


def test_without_rates_shares_are_equal(device):
    weight, inputs, _ = (tensor.to(device) for tensor in testing.heavy_tailed(6, 10, 4))
    found = allocate_rows(weight, inputs, 0.5, learning_rates=(), negative_learning_rates=(), backend="triton")
    assert found.prune_count.tolist() == [5] * 6


def test_an_overflow_is_an_error(device):
    weight, inputs, _ = (tensor.to(device) for tensor in testing.heavy_tailed(5, 12, 4))
    weight[3, 7] = 3e38
    with pytest.raises(ValueError, match=r"^weight, inputs: expected outputs within float32"):
        allocate_rows(weight, inputs.sign() * 100, 0.5, **RATES, backend="triton")


def test_a_metric_that_needs_the_outputs_is_refused(device):
    weight = torch.ones(2, 3, device=device)
    with pytest.raises(ValueError, match="'triton' cannot run allocate_rows: layer_metric 'mae' needs the outputs"):
        allocate_rows(weight, torch.ones(3, 2, device=device), 0.5, layer_metric="mae", backend="triton")
