"""unpack_values in Triton: the walk of pack_values, in the other direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.checks import require_as_many
from trim_kernels.ops.pack_values.triton import move, starts_of


def refusal(call: Mapping[str, Any]) -> str | None:
    return common.refusal(call, "values")


def unpack_values(values: Tensor, kept: Tensor, columns: int) -> Tensor:
    with common.on_device(values):
        starts = starts_of(kept, columns)
        require_as_many(values, int(starts[-1]))
        weight = torch.empty((kept.shape[0], columns), dtype=values.dtype, device=values.device)
        move(weight, kept, values.detach().contiguous(), starts, pack=False)
    return weight
