from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import native, pack_bits, pack_values, testing, unpack_values
from trim_kernels.c_types import packing


def bits(tensor):
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


@st.composite
def matrices(draw):
    """Any bits at all, NaNs among them, and a mask of any share."""
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(1, 90))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(list(testing.DTYPES.values())))
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    limits = torch.iinfo(integers)
    weight = torch.randint(limits.min, limits.max, (rows, columns), generator=generator, dtype=integers).view(dtype)
    share = draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]))
    return weight, torch.rand(rows, columns, generator=generator) < share


@hypothesis.given(matrix=matrices())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_they_are_indexing_by_a_mask_and_its_inverse(instruction_set, matrix):
    weight, mask = matrix
    for backend in ("cpu", "reference"):
        values = pack_values(weight, pack_bits(mask), backend=backend)
        assert torch.equal(bits(values), bits(weight)[mask])
        back = unpack_values(values, pack_bits(mask), weight.shape[1], backend=backend)
        assert torch.equal(bits(back), bits(weight).masked_fill(~mask, 0))


@pytest.mark.usefixtures("instruction_set", "poisoned_memory")
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_nasty_matrices_in_every_layout(matrix, dtype, case):
    for layout in testing.LAYOUTS:
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        generator = torch.Generator().manual_seed(1)
        for share in (0.0, 0.3, 0.7, 1.0):
            with case(layout=layout, share=share):
                mask = torch.rand(weight.shape, generator=generator) < share
                testing.check_pack_values("cpu", weight, pack_bits(mask))
                testing.check_unpack_values("cpu", weight[mask], pack_bits(mask), weight.shape[1])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", testing.DTYPES.values(), ids=testing.DTYPES)
@pytest.mark.parametrize("columns", [1, 7, 8, 15, 16, 17, 40, 133])
def test_nothing_around_the_values_or_the_weight_is_touched_or_needed(columns, dtype):
    weight = torch.randn(5, columns).to(dtype)
    mask = torch.rand(5, columns) < 0.4
    starts = native.packing_starts(pack_bits(mask), columns)
    count = int(mask.sum())
    around = torch.full((count + 2,), torch.nan, dtype=dtype)
    native.move("pack_values", packing(pack_bits(mask), columns, starts, weight, around[1:-1]))
    assert torch.equal(around[1:-1], weight[mask])
    assert around.isnan().sum() == 2
    out = torch.full((5, columns + 2), torch.nan, dtype=dtype)
    native.move("unpack_values", packing(pack_bits(mask), columns, starts, out[:, 1:-1], around[1:-1]))
    assert torch.equal(out[:, 1:-1], weight.masked_fill(~mask, 0))
    assert out.isnan().sum() == 10


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bits_beyond_the_last_column_are_not_read(backend):
    kept = torch.tensor([[0b11111101]], dtype=torch.uint8)
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    values = pack_values(weight, kept, backend=backend)
    assert values.tolist() == [1.0, 3.0]
    assert unpack_values(values, kept, 3, backend=backend).tolist() == [[1.0, 0.0, 3.0]]


def test_masks_and_values_may_lie_in_memory_in_any_way(backend):
    weight, mask = torch.randn(9, 37), torch.rand(9, 37) < 0.5
    kept = pack_bits(mask).t().contiguous().t()
    values = torch.stack([weight[mask], torch.zeros(int(mask.sum()))], dim=1)[:, 0]
    testing.check_pack_values(backend, weight, kept)
    testing.check_unpack_values(backend, values, kept, 37)


def test_there_is_no_gradient(backend):
    weight, kept = torch.randn(2, 9, requires_grad=True), torch.full((2, 2), 255, dtype=torch.uint8)
    values = pack_values(weight, kept, backend=backend)
    assert not values.requires_grad
    assert not unpack_values(values.requires_grad_(), kept, 9, backend=backend).requires_grad


@pytest.mark.parametrize("count", [0, 3, 5])
def test_more_or_fewer_values_than_kept_weights(count, backend):
    kept = torch.tensor([[0b1111]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"^values: expected 4, one for each kept weight, got {count}$"):
        unpack_values(torch.ones(count), kept, 9 if count > 8 else 8, backend=backend)


WRONG = {
    "weight": ({"weight": torch.ones(3, 7).double()}, "weight: expected a float32.*got float64"),
    "bools": ({"kept": torch.ones(3, 7).bool()}, r"kept: expected uint8 \[3, 1\] on cpu, got bool \[3, 7\]"),
    "rows": ({"kept": torch.ones(2, 1).byte()}, r"kept: expected uint8 \[3, 1\] on cpu, got uint8 \[2, 1\]"),
    "width": ({"kept": torch.ones(3, 2).byte()}, r"kept: expected uint8 \[3, 1\] on cpu, got uint8 \[3, 2\]"),
    "device": ({"kept": torch.ones(3, 1, device="meta").byte()}, "kept: expected .* on cpu, got .* on meta"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_pack_values_of_a_wrong_kind(wrong):
    changed, message = WRONG[wrong]
    with pytest.raises(ValueError, match=f"^{message}"):
        pack_values(**{"weight": torch.ones(3, 7), "kept": torch.ones(3, 1).byte()} | changed)


WRONG_VALUES = {
    "matrix": ({"values": torch.ones(3, 1)}, "values: expected a float32, bfloat16 or float16 vector, got float32"),
    "dtype": ({"values": torch.ones(3).double()}, "values: expected a float32, bfloat16 or float16 vector, got"),
    "width": ({"columns": 9}, r"kept: expected uint8 \[3, 2\] on cpu, got uint8 \[3, 1\]"),
    "no columns": ({"columns": 0}, "columns: expected an int of at least 1, got int 0"),
    "vector": ({"kept": torch.ones(3).byte()}, r"kept: expected uint8 \[0, 1\] on cpu, got uint8 \[3\]"),
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_unpack_values_of_a_wrong_kind(wrong):
    changed, message = WRONG_VALUES[wrong]
    with pytest.raises(ValueError, match=f"^{message}"):
        unpack_values(**{"values": torch.ones(3), "kept": torch.ones(3, 1).byte(), "columns": 7} | changed)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: expected auto, cuda.* or reference, got 'gpu'$"):
        pack_values(torch.ones(3, 7), torch.ones(3, 1).byte(), backend="gpu")
