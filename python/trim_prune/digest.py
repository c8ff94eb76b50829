"""Tensors in few bytes, to know again what something was found from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

WORDS = 1 << 20
"""Words of 8 bytes that are summed at a time."""


def add_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Make type, shape and bytes of a tensor part of a digest, to know a result by what it was found from."""
    tensor = tensor.detach().cpu().contiguous()
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)


def checksum(tensors: Iterable[Tensor]) -> str:
    """32 hexadecimal digits of type, shape and bytes of tensors: against accidents, and not against forgery.

    Of the words w_i of 8 bytes of each tensor, the sums of w_i and of (2 i + 1) w_i, modulo 2^64, where the tensor is:
    a GPU makes them at the speed of its memory, which a cryptographic digest would not have.
    """
    return checksum_of(map(described, tensors))


def checksum_of(descriptions: Iterable[str]) -> str:
    """As :func:`checksum`, of what :func:`described` says of each tensor."""
    digest = hashlib.sha256()
    for description in descriptions:
        digest.update(f"{description} ".encode())
    return digest.hexdigest()[:32]


def described(tensor: Tensor) -> str:
    """Type, shape and sums of a tensor."""
    return f"{tensor.dtype} {tuple(tensor.shape)} {_sums(tensor)}"


def _sums(tensor: Tensor) -> tuple[int, int]:
    content = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if content.storage_offset() % 8:
        content = content.clone()
    words, rest = content[: len(content) // 8 * 8].view(torch.int64), content[len(content) // 8 * 8 :]
    odd = 2 * torch.arange(min(WORDS, len(words)), device=tensor.device) + 1
    plain = weighted = int.from_bytes(bytes(rest.tolist()), "little")
    for start in range(0, len(words), WORDS):
        part = words[start : start + WORDS]
        total = int(part.sum())
        plain += total
        weighted += int((part * odd[: len(part)]).sum()) + 2 * start * total
    return plain % 2**64, weighted % 2**64
