from __future__ import annotations

import numpy as np
import pytest
import torch

from trim_kernels import pack_bits, unpack_bits

SHAPES = [(1, 1), (3, 7), (2, 8), (5, 9), (4, 64), (1, 129), (0, 5), (3, 0)]


def random_mask(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pack_bits_equals_numpy_packbits(shape):
    mask = random_mask(shape)
    expected = np.packbits(mask.numpy(), axis=1, bitorder="little")
    assert np.array_equal(pack_bits(mask).numpy(), expected)


def test_pack_bits_leaves_unused_bits_zero():
    assert pack_bits(torch.ones(2, 11, dtype=torch.bool)).tolist() == [[255, 7], [255, 7]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpack_bits_undoes_pack_bits(shape):
    mask = random_mask(shape)
    assert torch.equal(unpack_bits(pack_bits(mask), shape[1]), mask)


def test_unpack_bits_reads_strided_bytes():
    mask = random_mask((6, 20))
    assert torch.equal(unpack_bits(pack_bits(mask)[::2], 20), mask[::2])


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(2, 3)], ids=["vector", "float"])
def test_pack_bits_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match=r"mask: expected a bool matrix \[R, C\], got"):
        pack_bits(mask)


@pytest.mark.parametrize("columns", [0, 8, 17])
def test_unpack_bits_refuses_a_wrong_number_of_columns(columns):
    with pytest.raises(ValueError, match=rf"packed: expected uint8 .* for {columns} columns, got uint8 \[2, 2\]"):
        unpack_bits(torch.zeros(2, 2, dtype=torch.uint8), columns)
