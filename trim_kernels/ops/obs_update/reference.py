"""obs_update_ in plain torch: column by column over the whole matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trim_kernels.ops.obs_update.blocks import require_good
from trim_kernels.scoring import apart


def refusal(call: Mapping[str, object]) -> None:
    return None


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor) -> Tensor:
    weight, factor = weight.detach(), apart(factor.detach(), weight)
    require_good(weight, factor)
    errors = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    for j in range(weight.shape[1]):
        error = (weight[:, j] / factor[j, j]).masked_fill_(kept[:, j], 0)
        weight[:, j + 1 :].addr_(error, factor[j, j + 1 :], alpha=-1)
        weight[:, j].masked_fill_(~kept[:, j], 0)
        errors[:, j] = error
    return errors
