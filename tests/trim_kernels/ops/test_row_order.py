from __future__ import annotations

import torch

from trim_kernels import row_mask, row_order, testing


def test_reference_is_sorted_by_score_and_column(scored):
    weight, scores = scored
    order = row_order(weight, **scores, backend="reference")
    assert order.dtype == torch.int32
    assert order.shape == weight.shape
    assert order.tolist() == testing.pruning_order(weight, **scores)


def test_the_first_columns_are_those_that_the_mask_drops(backend):
    weight = testing.nasty_matrix("ties", torch.float32)
    order = row_order(weight, backend=backend)
    for count in (0, 1, 65, 131):
        dropped = torch.zeros(weight.shape, dtype=torch.bool).scatter_(1, order[:, :count].long(), True)
        assert torch.equal(dropped, ~row_mask(weight, count, backend=backend))
