"""Our methods among those of torch.nn.utils.prune."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import trim_kernels
from trim_prune.integrations.torch_prune import KeepOf, Rows, prune_n_of_m, prune_rows


def linear(rows=6, columns=20, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=False, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("amount", [0, 7, 20, 0.35])
def test_each_row_loses_what_torch_would_take_of_it_alone(amount, dtype):
    module = linear(dtype=dtype)
    rows = module.weight.detach().clone()
    prune_rows(module, "weight", amount)
    for row, mask in zip(rows, module.weight_mask, strict=True):
        alone = nn.Module()
        alone.weight = nn.Parameter(row.float())
        # topk takes any of equal weights: half precision has some.
        prune.l1_unstructured(alone, "weight", amount if isinstance(amount, int) else int(amount * 20))
        assert mask.sum() == alone.weight_mask.sum()
        kept, expected = row.abs()[mask.bool()], row.abs()[alone.weight_mask.bool()]
        assert torch.equal(kept.sort().values, expected.sort().values)


def test_counts_of_the_rows_and_a_column_scale():
    module, counts, scale = linear(), torch.arange(0, 12, 2, dtype=torch.int32), torch.rand(20)
    weight = module.weight.detach().clone()
    returned = prune_rows(module, "weight", counts, column_scale=scale)
    expected = trim_kernels.row_mask(weight, counts, column_scale=scale)
    assert returned is module
    assert prune.is_pruned(module)
    assert torch.equal(module.weight_mask.bool(), expected)
    assert torch.equal(module.weight, weight * expected)
    prune.remove(module, "weight")
    assert torch.equal(module.weight, weight * expected)
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    assert not prune.is_pruned(module)


def test_importance_scores_stand_for_the_weight():
    module, scores = linear(), torch.rand(6, 20)
    prune_n_of_m(module, "weight", 2, 4, importance_scores=scores)
    assert torch.equal(module.weight_mask.bool(), trim_kernels.nm_mask(scores, 2, 4))
    assert all(group.sum(1).eq(2).all() for group in module.weight_mask.split(4, dim=1))


@pytest.mark.parametrize("columns", [20, 22])
def test_what_is_pruned_already_goes_first_and_counts(columns):
    module = linear(columns=columns)
    with torch.no_grad():
        module.weight[:, ::3] = 0  # zeros that are kept so far: they must not be taken for pruned ones
    prune.random_unstructured(module, "weight", 0.2)
    before = module.weight_mask.clone()
    most = int((before == 0).sum(1).max())
    prune_rows(module, "weight", most + 3)
    after = module.weight_mask
    assert bool((after <= before).all())
    assert (after == 0).sum(1).tolist() == [most + 3] * 6
    prune_rows(module, "weight", 1)
    assert torch.equal(module.weight_mask, after)


def test_groups_after_rows():
    module = linear()
    prune_rows(module, "weight", 5)
    before = module.weight_mask.bool().clone()
    prune_n_of_m(module, "weight", 2, 4)
    after = module.weight_mask.bool()
    groups = before.view(6, 5, 4).sum(2)
    assert torch.equal(after.view(6, 5, 4).sum(2), groups.clamp(max=2))
    assert not (after & ~before).any()


def test_a_convolution_is_pruned_by_its_output_channels_and_trains():
    torch.manual_seed(0)
    module = nn.Conv2d(3, 5, 3)
    prune_rows(module, "weight", 13)
    assert (module.weight_mask.flatten(1) == 0).sum(1).tolist() == [13] * 5
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    assert bool((module.weight_orig.grad[module.weight_mask == 0] == 0).all())
    assert bool((module.weight_orig.grad[module.weight_mask == 1] != 0).all())


def test_global_unstructured_hands_over_to_the_methods_of_torch_after_ours():
    module = linear()
    prune_rows(module, "weight", 4)
    prune.global_unstructured([(module, "weight")], pruning_method=prune.L1Unstructured, amount=40)
    assert int((module.weight_mask == 0).sum()) == 6 * 4 + 40


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (Rows, (21,), "prune_count: expected an int from 0 to 20"),
        (Rows, (torch.zeros(5, dtype=torch.int32),), "prune_count: expected int32"),
        (KeepOf, (5, 4), "keep: expected an int from 0 to 4"),
        (KeepOf, (1, 4, torch.ones(3)), "column_scale: expected float32"),
    ],
)
def test_a_wrong_argument_leaves_the_module_as_it_was(method, arguments, message):
    module = linear()
    weight = module.weight
    with pytest.raises(ValueError, match=message):
        method.apply(module, "weight", *arguments)
    assert module.weight is weight
    assert list(module.state_dict()) == ["weight"]
