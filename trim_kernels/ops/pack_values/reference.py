"""pack_values in plain torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trim_kernels.bits import unpack_bits


def refusal(call: Mapping[str, object]) -> None:
    return None


def pack_values(weight: Tensor, kept: Tensor) -> Tensor:
    return weight.detach()[unpack_bits(kept, weight.shape[1])]
