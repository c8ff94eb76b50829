"""The value of a given rank among more values than should be sorted, or joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LOW_BITS = 15
"""A key has 31 bits; the first pass over the tiles finds the upper 16, the second one these."""
LOW_MASK = (1 << LOW_BITS) - 1

Tiles = Callable[[], Iterable[Tensor]]


def keys(values: Tensor) -> Tensor:
    """Int32 keys of float32 values >= 0: integers >= 0, ordered as the values are."""
    return values.view(torch.int32)


def key_of_rank(tiles: Tiles, rank: int) -> tuple[int, int]:
    """The key of the given rank, from 1, among float32 values >= 0; and its rank among those that equal it.

    ``tiles`` is called twice, and makes all values in both passes.
    """
    upper, rank = _digit_of_rank((keys(tile) >> LOW_BITS for tile in tiles()), rank)
    close = (keys(tile)[keys(tile) >> LOW_BITS == upper] & LOW_MASK for tile in tiles())
    lower, rank = _digit_of_rank(close, rank)
    return upper << LOW_BITS | lower, rank


def _digit_of_rank(parts: Iterable[Tensor], rank: int) -> tuple[int, int]:
    """The same among integers below 2^16."""
    counts = sum(torch.bincount(part.flatten(), minlength=1 << 16) for part in parts)
    assert isinstance(counts, Tensor)
    up_to = counts.cumsum(0)
    digit = int(torch.searchsorted(up_to, rank))
    return digit, rank - (int(up_to[digit - 1]) if digit else 0)
