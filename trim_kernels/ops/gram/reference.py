"""gram_ in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def refusal(call: Mapping[str, object]) -> None:
    return None


def gram_(acc: Tensor, x: Tensor, token_mask: Tensor | None) -> None:
    counted = (x if token_mask is None else x[token_mask]).to(torch.float32)
    lower = torch.ones_like(acc, dtype=torch.bool).tril()
    acc.copy_(torch.where(lower, acc + counted.t() @ counted, acc))
