from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from trim_kernels import row_order


@pytest.fixture
def subnormals_flushed() -> Iterator[None]:
    """A process that has told the processor to take subnormal numbers for zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    yield
    torch.set_flush_denormal(False)


def test_subnormal_halves_keep_their_order(subnormals_flushed, instruction_set):
    bits = torch.tensor([[5, 3, 1000, 0, 1, 2**15 + 2, 1024, 1023]], dtype=torch.int32).to(torch.int16)
    assert row_order(bits.view(torch.float16), backend="cpu").tolist() == [[3, 4, 5, 1, 0, 2, 7, 6]]
