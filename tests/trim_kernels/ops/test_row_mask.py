from __future__ import annotations

import numpy as np
import torch

from trim_kernels import row_mask, testing, unpack_bits


def test_reference_keeps_what_the_order_does_not_prune(scored):
    weight, scores = scored
    counts = testing.mixed_counts(weight)
    expected = np.ones(weight.shape, dtype=bool)
    for row, (order, count) in enumerate(zip(testing.pruning_order(weight, **scores), counts.tolist(), strict=True)):
        expected[row, order[:count]] = False
    mask = row_mask(weight, counts, **scores, backend="reference")
    packed = row_mask(weight, counts, **scores, packed=True, backend="reference")
    assert np.array_equal(mask.numpy(), expected)
    assert np.array_equal(packed.numpy(), np.packbits(expected, axis=1, bitorder="little"))


def test_packed_is_the_same_mask_in_bits(backend):
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    counts = testing.mixed_counts(weight)
    packed = row_mask(weight, counts, packed=True, backend=backend)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_bits(packed, 129), row_mask(weight, counts, backend=backend))


def test_an_int_count_means_every_row(backend):
    weight = testing.nasty_matrix("5x8", torch.float32)
    same = torch.full((5,), 3, dtype=torch.int32)
    assert torch.equal(row_mask(weight, 3, backend=backend), row_mask(weight, same, backend=backend))


def test_equal_scores_go_from_the_left(backend):
    mask = row_mask(torch.tensor([[1.0, -1.0, 1.0, 0.5]]), 2, backend=backend)
    assert mask.tolist() == [[False, True, True, False]]


def test_a_score_overrules_the_magnitude(backend):
    mask = row_mask(torch.tensor([[1.0, 9.0]]), 1, score=torch.tensor([[2.0, 0.0]]), backend=backend)
    assert mask.tolist() == [[True, False]]


def test_bfloat16_is_scored_in_float32(backend):
    weight = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    # In bfloat16 both products would round to the same number, and the left weight would go.
    column_scale = torch.tensor([1.0079, 1.0])
    assert row_mask(weight, 1, column_scale=column_scale, backend=backend).tolist() == [[True, False]]


def test_a_parameter_is_taken_and_the_weight_left_alone(backend):
    weight = torch.nn.Parameter(testing.nasty_matrix("5x8", torch.float32))
    before = weight.detach().clone()
    mask = row_mask(weight, 4, backend=backend)
    assert not mask.requires_grad
    assert torch.equal(weight.detach(), before)
