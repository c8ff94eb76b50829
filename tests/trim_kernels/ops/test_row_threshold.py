from __future__ import annotations

import struct

import torch

from trim_kernels import row_threshold, testing
from trim_kernels.testing.brute_force import row_scores


def float_bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]


def test_reference_is_the_first_weight_that_stays(scored):
    weight, scores = scored
    columns = weight.shape[1]
    counts = testing.mixed_counts(weight)
    key, column = row_threshold(weight, counts, **scores, backend="reference")
    expected = []
    for row, order, count in zip(
        row_scores(weight, **scores), testing.pruning_order(weight, **scores), counts.tolist(), strict=True
    ):
        stays = order[count] if count < columns else None
        expected.append((2**31 - 1, columns) if stays is None else (float_bits(row[stays]), stays))
    assert list(zip(key.tolist(), column.tolist(), strict=True)) == expected


def test_weights_before_the_threshold_are_the_pruned_ones(backend):
    weight = testing.nasty_matrix("ties", torch.float32)
    counts = testing.mixed_counts(weight)
    key, column = row_threshold(weight, counts, backend=backend)
    own_key, own_column = weight.abs().view(torch.int32), torch.arange(weight.shape[1])
    goes = (own_key < key[:, None]) | ((own_key == key[:, None]) & (own_column < column[:, None]))
    assert torch.equal(goes.sum(dim=1).int(), counts)


def test_results_are_named(backend):
    found = row_threshold(torch.tensor([[3.0, 1.0, 2.0]]), 1, backend=backend)
    assert found._fields == ("key", "column")
    assert (found.key.item(), found.column.item()) == (float_bits(2.0), 2)


def test_an_overflowing_score_has_the_key_of_infinity(backend):
    found = row_threshold(torch.tensor([[3e38, 1.0]]), 1, column_scale=torch.tensor([9.0, 1.0]), backend=backend)
    assert (found.key.item(), found.column.item()) == (float_bits(float("inf")), 0)


def test_the_key_of_a_zero_score_has_no_sign(backend):
    found = row_threshold(-torch.ones(1, 3), 1, column_scale=torch.full((3,), -0.0), backend=backend)
    assert (found.key.item(), found.column.item()) == (0, 1)
