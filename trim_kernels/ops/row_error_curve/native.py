"""row_error_curve on the CPU: each row of the Gram matrix meets many rows of the weight while it is in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import native
from trim_kernels.c_types import unit_stride
from trim_kernels.native import refusal as refusal


def row_error_curve(
    weight: Tensor,
    gram: Tensor,
    first_count: int,
    last_count: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> Tensor:
    products = unit_stride(gram)
    curve = torch.empty((weight.shape[0], last_count - first_count + 1), dtype=torch.float32)
    native.call(
        "row_error_curve",
        unit_stride(weight),
        column_scale,
        score,
        products,
        products.stride(0),
        first_count,
        last_count,
        curve,
        read="gram",
    )
    return curve
