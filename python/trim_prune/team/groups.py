"""Divisions of the work that the number of processes does not change, so that it does not change a bit of the result.

Sums over sequences are made by groups of sequences, products of matrices by parts of their rows: a process takes whole
groups and whole parts, and one process alone takes all of them, one after the other.
"""

from __future__ import annotations

from itertools import pairwise

MOST = 8
"""Groups of sequences, and parts of rows, at most; and so processes."""
SEQUENCES = 4
"""Of a group at least, where there are more groups than one: fewer are not worth a process."""
ROWS = 1024
"""Of a part at least: with fewer rows in a product a GPU is not busy."""
ALIGNED = 16
"""Rows of any width of float32 begin at a multiple of 64 bytes after so many, as libraries of products like it."""


def groups_of(sequences: int) -> list[range]:
    """The sequences of each group: consecutive ones, as many in each as in the others, or one more in the first."""
    return divided(sequences, min(MOST, -(-sequences // SEQUENCES)))


def row_parts(rows: int) -> list[slice]:
    """The parts of a matrix with so many rows."""
    parts = min(MOST, max(1, rows // ROWS))
    step = -(-max(rows, 1) // (parts * ALIGNED)) * ALIGNED
    return [slice(first, min(first + step, rows)) for first in range(0, max(rows, 1), step)]


def divided(count: int, shares: int) -> list[range]:
    """Consecutive shares of ``range(count)`` that differ by one at most, the larger ones first."""
    ends = [number * (count // shares) + min(number, count % shares) for number in range(shares + 1)] if shares else []
    return [range(first, last) for first, last in pairwise(ends)]
