from __future__ import annotations

import pytest

from trim_kernels import allocate_rows, row_quality, testing


@pytest.fixture
def overflowing():
    """Finite weights and inputs whose products are not."""
    weight, inputs, _ = testing.heavy_tailed(9, 40, 12)
    weight[3, 7] = 3e38
    return weight, inputs.sign() * (inputs.abs() + 100)


@pytest.mark.parametrize("rounding", ["exact", "floor"])
def test_a_search_refuses_outputs_beyond_float32(overflowing, rounding, backend):
    with pytest.raises(ValueError, match=r"^weight, inputs: expected outputs within float32, got an overflow"):
        allocate_rows(*overflowing, 0.5, rounding=rounding, backend=backend)


@pytest.mark.parametrize("prune_count", [0, 20, 40])
def test_row_quality_refuses_outputs_beyond_float32(overflowing, prune_count, backend):
    weight, inputs = overflowing
    with pytest.raises(ValueError, match=r"^weight, inputs: expected outputs within float32, got an overflow"):
        row_quality(weight, prune_count, inputs, backend=backend)


def test_the_library_works_on_after_an_overflow(overflowing, backend):
    with pytest.raises(ValueError, match="overflow"):
        allocate_rows(*overflowing, 0.5, backend=backend)
    assert int(allocate_rows(*testing.heavy_tailed(9, 40, 12)[:2], 0.5, backend=backend).prune_count.sum()) == 180
