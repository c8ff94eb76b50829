"""The weights of a matrix that stay, side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_kept, check_weight


def pack_values(weight: Tensor, kept: Tensor, *, backend: str = "auto") -> Tensor:
    """The kept weights in one vector: row after row, in a row by ascending column.

    ``pack_values(weight, pack_bits(mask)) == weight[mask]``, to the bit: values are moved as they are, so that NaN,
    infinity and -0.0 stay what they were. With the mask, :func:`trim_kernels.unpack_values` brings the matrix back.

    Args:
        weight: float32, bfloat16 or float16 [R, C].
        kept: uint8 [R, ceil(C / 8)], packed as by :func:`trim_kernels.pack_bits`: bit 1 = kept. What the last byte of a
            row has beyond C is not read.
        backend: "auto", "triton", "cpu" or "reference".

    Returns:
        As many values as there are kept weights, in the weight's dtype.

    Raises:
        ValueError: an argument has a wrong shape, dtype or device; or the backend cannot run here.
    """
    check_weight(weight)
    check_kept(kept, weight.shape[0], weight.shape[1], weight.device)
    values: Tensor = torch.ops.trim_kernels.pack_values(weight, kept, backend)
    return values
