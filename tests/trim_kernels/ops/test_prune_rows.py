from __future__ import annotations

import pytest
import torch

from trim_kernels import prune_rows_, testing


def test_reference_zeroes_what_comes_first_in_the_order(scored):
    weight, scores = scored
    counts = testing.mixed_counts(weight)
    expected = weight.tolist()
    for row, order, count in zip(expected, testing.pruning_order(weight, **scores), counts.tolist(), strict=True):
        for column in order[:count]:
            row[column] = 0.0
    assert prune_rows_(weight, counts, **scores, backend="reference").tolist() == expected


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_the_weight_itself_changes_in_any_layout(layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float16, layout)
    assert prune_rows_(weight, 100, backend=backend) is weight
    assert (weight == 0).sum(dim=1).tolist() == [100] * 17


def test_kept_weights_keep_the_sign_of_a_zero(backend):
    weight = prune_rows_(torch.tensor([[-0.0, -0.0, -0.0]]), 2, backend=backend)
    assert torch.signbit(weight).tolist() == [[False, False, True]]


def test_pruned_weights_become_positive_zero(backend):
    weight = prune_rows_(torch.tensor([[-1.0, -2.0, -3.0]]), 2, backend=backend)
    assert torch.signbit(weight).tolist() == [[False, False, True]]


def test_pruning_again_changes_nothing(backend):
    weight = testing.nasty_matrix("17x129", torch.float32)
    once = prune_rows_(weight, 60, backend=backend).clone()
    assert torch.equal(prune_rows_(weight, 60, backend=backend), once)


def test_a_parameter_that_requires_grad_is_pruned_in_place(backend):
    weight = torch.nn.Parameter(testing.nasty_matrix("5x8", torch.float32))
    prune_rows_(weight, 3, backend=backend)
    assert (weight == 0).sum().item() == 15
    assert weight.is_leaf
    assert weight.requires_grad


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_scores_may_be_views_of_the_weight(layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float32, layout).abs_()
    expected = prune_rows_(weight.clone(), 60, column_scale=weight[0].clone(), backend="reference")
    assert torch.equal(prune_rows_(weight, 60, column_scale=weight[0], backend=backend), expected)
    weight = testing.nasty_matrix("17x129", torch.float32, layout).abs_()
    expected = prune_rows_(weight.clone(), 60, score=weight.flip(0), backend="reference")
    assert torch.equal(prune_rows_(weight, 60, score=weight.flip(0), backend=backend), expected)
