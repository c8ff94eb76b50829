from __future__ import annotations

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.prune_nm import prune_nm_


def test_reference_zeroes_what_the_definition_does_not_keep(scored):
    weight, scores = scored
    for keep, of in [(8, 8), (20, 32), (3, 7), (0, 8)]:
        kept = testing.nm_kept(weight, keep, of, **scores)
        expected = [
            [value if stays else 0.0 for value, stays in zip(*row, strict=True)]
            for row in zip(weight.tolist(), kept, strict=True)
        ]
        assert prune_nm_(weight, keep, of, **scores, backend="reference").tolist() == expected


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_the_weight_itself_changes_in_any_layout(layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float16, layout)
    assert prune_nm_(weight, 2, 4, backend=backend) is weight
    assert (weight == 0).sum(dim=1).tolist() == [64] * 17


def test_kept_weights_keep_the_sign_of_a_zero_and_pruned_ones_become_positive(backend):
    weight = prune_nm_(torch.tensor([[-0.0, -0.0, -1.0, -2.0]]), 1, 2, backend=backend)
    assert torch.signbit(weight).tolist() == [[False, True, False, True]]


def test_pruning_again_changes_nothing(backend):
    weight = testing.nasty_matrix("17x129", torch.float32)
    once = prune_nm_(weight, 3, 5, backend=backend).clone()
    assert torch.equal(prune_nm_(weight, 3, 5, backend=backend), once)


def test_a_parameter_that_requires_grad_is_pruned_in_place(backend):
    weight = torch.nn.Parameter(testing.nasty_matrix("5x8", torch.float32))
    prune_nm_(weight, 1, 4, backend=backend)
    assert (weight == 0).sum().item() == 30
    assert weight.is_leaf
    assert weight.requires_grad


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_scores_may_be_views_of_the_weight(layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float32, layout).abs_()
    expected = prune_nm_(weight.clone(), 2, 4, column_scale=weight[0].clone(), backend="reference")
    assert torch.equal(prune_nm_(weight, 2, 4, column_scale=weight[0], backend=backend), expected)
    weight = testing.nasty_matrix("17x129", torch.float32, layout).abs_()
    upside_down = weight.as_strided(weight.shape, (0, weight.stride(1)), weight[16].storage_offset())
    expected = prune_nm_(weight.clone(), 2, 4, score=upside_down.clone(), backend="reference")
    assert torch.equal(prune_nm_(weight, 2, 4, score=upside_down, backend=backend), expected)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_bad_value_in_the_last_group_leaves_the_weight_as_it_was(bad, layout, rows, backend):
    matrix = torch.ones(rows, 70)
    matrix[-1, -1] = bad
    weight = testing.LAYOUTS[layout](matrix)
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got {bad} at \[{rows - 1}, 69\] \(1 of "):
        prune_nm_(weight, 2, 4, backend=backend)
    assert torch.equal(weight.nan_to_num(nan=-7), matrix.nan_to_num(nan=-7))
