from __future__ import annotations

import pytest
import torch

from trim_kernels import pack_bits, testing, unpack_values

SHAPES = [(1, 1), (1, 9), (9, 1), (0, 5), (3, 7), (4, 128), (3, 1100)]


@pytest.mark.parametrize("dtype", testing.DTYPES.values(), ids=testing.DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_moved_to_the_bit(shape, dtype, device):
    weight = torch.randn(shape).to(dtype)
    weight[:1, :1] = torch.nan
    weight[1:, :1] = -0.0
    for share in (0.0, 0.4, 1.0):
        mask = torch.rand(shape) < share
        kept = pack_bits(mask).to(device)
        testing.check_pack_values("triton", weight.to(device), kept)
        testing.check_unpack_values("triton", weight[mask].to(device), kept, shape[1])


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_every_argument_may_lie_in_memory_in_any_way(layout, device):
    weight = testing.nasty_matrix("17x129", torch.bfloat16).to(device)
    mask = weight > 0
    kept = pack_bits(mask).t().contiguous().t()
    testing.check_pack_values("triton", testing.LAYOUTS[layout](weight), kept)
    testing.check_unpack_values("triton", weight[mask].repeat_interleave(2)[::2], kept, 129)


def test_more_values_than_kept_weights(device):
    kept = torch.tensor([[0b1111]], dtype=torch.uint8, device=device)
    with pytest.raises(ValueError, match=r"^values: expected 4, one for each kept weight, got 5$"):
        unpack_values(torch.ones(5, device=device), kept, 8, backend="triton")
