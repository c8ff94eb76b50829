"""row_error_curve in plain torch, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.ops.row_order.reference import row_order
from trim_kernels.scoring import require_finite, require_finite_tensor, require_no_overflow

ROWS, COLUMNS = 256, 1024
"""Of a tile."""


def refusal(call: Mapping[str, object]) -> None:
    return None


def row_error_curve(
    weight: Tensor,
    gram: Tensor,
    first_count: int,
    last_count: int,
    column_scale: Tensor | None,
    score: Tensor | None,
    check_values: bool,
) -> Tensor:
    if check_values:
        require_finite(weight, column_scale, score)
        require_finite_tensor("gram", gram)
    rows, width = weight.shape
    curve = torch.empty((rows, last_count - first_count + 1), dtype=torch.float32, device=weight.device)
    for start in range(0, rows, ROWS):
        tile = slice(start, start + ROWS)
        values = weight[tile].to(torch.float64)
        order = row_order(weight[tile], column_scale, None if score is None else score[tile], check_values=False).long()
        gone = torch.zeros_like(values).scatter_(1, order[:, :first_count], values.gather(1, order[:, :first_count]))
        products = torch.cat(
            [gone @ gram[:, j : j + COLUMNS].to(torch.float64) for j in range(0, width, COLUMNS)], dim=1
        )
        for row, band in enumerate(order[:, first_count:last_count]):
            going = values[row, band]
            pairs = gram[band[:, None], band].to(torch.float64)
            before = products[row, band] + pairs.tril(-1) @ going
            growth = going * (2 * before + going * pairs.diagonal())
            curve[start + row] = torch.cat([gone[row] @ products[row][:, None], growth]).cumsum(0)
    if check_values:
        require_no_overflow(curve, read="gram")
    return curve
