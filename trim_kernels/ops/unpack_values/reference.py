"""unpack_values in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trim_kernels.bits import unpack_bits
from trim_kernels.checks import require_as_many


def refusal(call: Mapping[str, object]) -> None:
    return None


def unpack_values(values: Tensor, kept: Tensor, columns: int) -> Tensor:
    mask = unpack_bits(kept, columns)
    require_as_many(values, int(mask.sum()))
    weight = values.new_zeros(mask.shape)
    weight[mask] = values.detach()
    return weight
