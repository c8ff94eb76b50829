from __future__ import annotations

import pytest
import torch

from trim_kernels import allocate_rows, row_quality, testing
from trim_kernels.native import instruction_set

needs_library = pytest.mark.skipif(instruction_set() is None, reason="the native library is not built")


@needs_library
def test_columns_beyond_16_bits_are_told_apart():
    weight, inputs, column_scale = testing.heavy_tailed(3, 65_600, 4)
    found = allocate_rows(weight, inputs, 0.6, column_scale=column_scale, backend="cpu")
    assert int(found.prune_count.sum()) == round(0.6 * weight.numel())
    quality = row_quality(weight, found.prune_count, inputs, column_scale=column_scale, backend="reference")
    assert found.quality == pytest.approx(quality.layer_cosine, abs=1e-6)


@needs_library
@pytest.mark.parametrize("columns", [1024, 1025, 4096])
def test_wide_matrices_take_the_path_of_the_reference(columns):
    weight, inputs, column_scale = testing.heavy_tailed(128, columns, 128)
    testing.check_allocate_rows("cpu", weight, inputs, 0.6, column_scale=column_scale, rounding="floor")


@needs_library
def test_inputs_that_are_no_whole_tiles_give_the_same():
    weight, inputs, column_scale = testing.heavy_tailed(64, 96, 256)
    whole = allocate_rows(weight, inputs, 0.6, column_scale=column_scale, backend="cpu")
    padded = torch.cat([inputs, torch.zeros(96, 3)], dim=1)
    found = allocate_rows(weight, padded, 0.6, column_scale=column_scale, backend="cpu")
    assert torch.equal(found.prune_count, whole.prune_count)
