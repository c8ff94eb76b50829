"""column_sqnorm_ in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def refusal(call: Mapping[str, object]) -> None:
    return None


def column_sqnorm_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    counted = x if token_mask is None else x[token_mask]
    acc.copy_(acc.to(torch.float64) + counted.to(torch.float64).square().sum(dim=0))
