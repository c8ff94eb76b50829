"""A matrix from its kept weights."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_values


def unpack_values(values: Tensor, kept: Tensor, columns: int, *, backend: str = "auto") -> Tensor:
    """The matrix whose kept weights are ``values``, and all else +0: what :func:`trim_kernels.pack_values` took apart.

    ``weight[mask] = values``, to the bit, with ``mask = unpack_bits(kept, columns)``.

    Args:
        values: float32, bfloat16 or float16, one for each weight that is kept: row after row, in a row by ascending
            column.
        kept: uint8 [R, ceil(C / 8)], packed as by :func:`trim_kernels.pack_bits`: bit 1 = kept. What the last byte of a
            row has beyond C is not read.
        columns: C, at least 1.
        backend: "auto", "triton", "cpu" or "reference".

    Returns:
        [R, C] in the dtype of the values, contiguous.

    Raises:
        ValueError: an argument has a wrong shape, dtype or device; there are more or fewer values than kept weights; or
            the backend cannot run here.
    """
    check_values(values, kept, columns)
    weight: Tensor = torch.ops.trim_kernels.unpack_values(values, kept, columns, backend)
    return weight
