"""How many copies of the arguments a measurement goes round, so that none is found in the cache."""

from __future__ import annotations

import math

CACHES = 5
"""The copies together are at least so many times as large as the cache."""
SHARE_OF_MEMORY = 0.4
"""The copies and what the calls return may take so much of the free memory."""


def rotation_count(touched_bytes: int, copy_bytes: int, cache_bytes: int, free_bytes: int) -> int:
    """Copies for a cold cache: two or more, and as many as fit if memory is short.

    ``touched_bytes`` of each are read by every operation; in all, with what a call returns, it takes ``copy_bytes``.
    Two even where one is larger than the cache: the end of a single one would still be there when its start comes
    round again.
    """
    wanted = max(2, math.ceil(CACHES * cache_bytes / max(1, touched_bytes)))
    affordable = int(SHARE_OF_MEMORY * free_bytes / max(1, copy_bytes))
    return max(1, min(wanted, affordable))
