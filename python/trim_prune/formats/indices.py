"""Masks of an N:M pattern as the places of what is kept: fewer bits than a mask has, where little is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import pack_bits, unpack_bits

from ..pattern import Keep


def index_bits(pattern: Keep) -> int:
    """Bits of one place in a group of m columns: ceil(log2 m)."""
    return (pattern.of - 1).bit_length()


def are_smaller(pattern: Keep) -> bool:
    """Whether the places of n kept columns take fewer bits than m columns do."""
    return pattern.keep * index_bits(pattern) < pattern.of


def pack_indices(kept: Tensor, pattern: Keep) -> Tensor:
    """The places of the kept columns in their groups, ascending: uint8 [R, ceil(K * bits / 8)] for K kept in a row.

    Each place has :func:`index_bits` bits, the lowest first, and places follow each other without gaps.
    """
    rows, columns = kept.shape
    width = index_bits(pattern)
    column = torch.arange(columns, device=kept.device).expand(rows, columns)[kept]
    place = (column % pattern.of).view(rows, pattern.of_row(columns), 1)
    bits = (place >> torch.arange(width, device=kept.device)) & 1
    return pack_bits(bits.flatten(1).bool())


def unpack_indices(indices: Tensor, pattern: Keep, columns: int) -> Tensor:
    """The mask, bool [R, columns], of what :func:`pack_indices` made."""
    rows, kept, width = indices.shape[0], pattern.of_row(columns), index_bits(pattern)
    bits = unpack_bits(indices, kept * width).view(rows, kept, width).int()
    place = (bits << torch.arange(width, device=indices.device)).sum(2)
    group = torch.arange(kept, device=indices.device) // max(pattern.keep, 1)
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=indices.device)
    return mask.scatter_(1, place + group * pattern.of, True)
