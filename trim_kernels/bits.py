"""Packed masks: one bit a weight, eight columns a byte, the lowest column in the lowest bit."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import describe


def empty_mask(weight: Tensor, packed: bool) -> Tensor:
    """Memory for the mask of a weight [R, C]: bool [R, C], or packed uint8 [R, ceil(C / 8)]."""
    rows, columns = weight.shape
    if packed:
        return weight.new_empty((rows, (columns + 7) // 8), dtype=torch.uint8)
    return weight.new_empty((rows, columns), dtype=torch.bool)


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a bool mask [R, C] into uint8 [R, ceil(C / 8)], little bit order; unused bits of a last byte are 0.

    The layout is that of ``numpy.packbits(mask, axis=1, bitorder="little")``.
    """
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask: expected a bool matrix [R, C], got {describe(mask)}")
    rows, columns = mask.shape
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -columns % 8)).view(rows, (columns + 7) // 8, 8)
    place = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=mask.device)
    return (padded * place).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, columns: int) -> Tensor:
    """Bool mask [R, columns] of what :func:`pack_bits` made."""
    if packed.dim() != 2 or packed.dtype != torch.uint8 or packed.shape[1] != -(-columns // 8):
        raise ValueError(
            f"packed: expected uint8 [R, {-(-columns // 8)}] for {columns} columns, got {describe(packed)}"
        )
    place = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(2) >> place) & 1
    return bits.flatten(1)[:, :columns].to(torch.bool)
