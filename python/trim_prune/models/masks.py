"""Packed masks that lie over the parameters of a model, in their shape and orientation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trim_kernels import pack_bits, unpack_bits

from .discover import Linear


def add_mask(masks: dict[str, Tensor], linear: Linear, kept: Tensor) -> None:
    """Add what is kept of a linear (uint8 [R, ceil(C/8)]) to the mask of the parameter that holds its weight."""
    shape = tuple(linear.whole.shape)
    if linear.transposed:
        kept = pack_bits(unpack_bits(kept, linear.shape[1]).t().contiguous())
    if linear.expert is None:
        masks[linear.weight_name] = kept
        return
    if linear.weight_name not in masks:
        masks[linear.weight_name] = torch.zeros(*shape[:-1], kept.shape[-1], dtype=torch.uint8)
    masks[linear.weight_name][linear.expert] = kept


def pack(kept: Tensor) -> Tensor:
    """uint8 [..., ceil(C/8)] of bools [..., C], bit 1 = True, little bit order."""
    return pack_bits(kept.reshape(-1, kept.shape[-1])).view(*kept.shape[:-1], -1)


def unpack(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bools of that shape from uint8 [..., ceil(C/8)]: the inverse of :func:`pack`."""
    return unpack_bits(mask.reshape(math.prod(shape[:-1]), mask.shape[-1]), shape[-1]).view(shape)
