"""A model of what several processes gain: what they move for each block, and what is left to each of them to compute.

Nothing here is measured; ``benchmarks.ranks`` compares it with runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trim_prune.team import groups_of, row_parts
from trim_prune.team.groups import divided
from trim_prune.team.ranks import dealt


@dataclass(frozen=True)
class Matrix:
    """A linear; those of one ``source`` are handed the same input."""

    rows: int
    columns: int
    source: str

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Case:
    """One block of a gated transformer, its calibration text, and a method.

    ``width``: bytes of a weight and of an input. ``gram``: whether Gram matrices are collected. ``solved``: whether the
    solver computes new weights, which have to travel. ``searched``: input vectors for the row search. ``kept``: whether
    hidden states are kept for a run that goes on (on CPUs; float32).
    """

    name: str
    hidden: int
    inner: int
    keys: int
    sequences: int
    seqlen: int
    width: int
    gram: bool
    solved: bool
    searched: int = 0
    kept: bool = False

    @property
    def matrices(self) -> list[Matrix]:
        """The linears of the block, in order."""
        return [
            *(Matrix(rows, self.hidden, "attention") for rows in (self.hidden, self.keys, self.keys)),
            Matrix(self.hidden, self.hidden, "heads"),
            *(Matrix(self.inner, self.hidden, "mlp") for _ in range(2)),
            Matrix(self.hidden, self.inner, "inner"),
        ]

    @property
    def inputs(self) -> list[int]:
        """The columns of each input that is measured."""
        return list({matrix.source: matrix.columns for matrix in self.matrices}.values())

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.sequences * self.seqlen


def volume(case: Case, ranks: int) -> dict[str, int]:
    """Bytes that arrive at all ranks together, for one block.

    Sums travel twice: in shares to those that add them up, and from there to all. All else goes from the rank that made
    it to all others; hidden states to the first one only.
    """
    others = ranks - 1
    nodes = sum(map(_nodes, divided(len(groups_of(case.sequences)), ranks)))
    sums = [(columns**2, 4) if case.gram else (columns, 8) for columns in case.inputs]
    found = {
        # What is missing to equal shares travels as zeros.
        "statistics": sum((nodes + ranks) * others * -(-count // ranks) * width for count, width in sums),
        "search inputs": others * case.searched * case.width * sum(case.inputs),
        "decisions": others * 4 * sum(matrix.rows for matrix in case.matrices),
        "weights": 0,
        "hidden states": 0,
    }
    if case.solved:
        masks = sum(matrix.rows * -(-matrix.columns // 8) for matrix in case.matrices)
        found["weights"] = others * (masks + case.width * sum(matrix.size for matrix in case.matrices))
    if case.kept:
        first = sum(len(groups_of(case.sequences)[group]) for group in _groups(case, ranks)[0])
        found["hidden states"] = (case.sequences - first) * case.seqlen * case.hidden * 4
    return found


def operations(case: Case) -> dict[str, float]:
    """Of one process, for one block: multiplications and additions of its two forwards and of the method."""
    weights, heads = sum(matrix.size for matrix in case.matrices), 4 * case.seqlen * case.hidden
    found = {"forward": 2.0 * case.tokens * (2 * weights + heads)}
    if case.gram:
        found["statistics"] = float(case.tokens * sum(columns**2 for columns in case.inputs))
        found["measure"] = 4.0 * sum(matrix.size * matrix.columns for matrix in case.matrices)
    if case.solved:
        # Each column of an input changes all that follow it; the factor of an inverse is about as much as a product.
        found["solve"] = float(sum(matrix.size * matrix.columns for matrix in case.matrices))
        found["factor"] = float(sum(columns**3 for columns in case.inputs))
    return found


def shares(case: Case, ranks: int) -> dict[str, float]:
    """Of the work of one process, what is left to the rank with the most to do."""
    longest = max(sum(len(groups_of(case.sequences)[group]) for group in mine) for mine in _groups(case, ranks))
    sequences, linears = longest / case.sequences, _largest([matrix.size for matrix in case.matrices], ranks)
    parts = [(part.stop - part.start) * matrix.columns for matrix in case.matrices for part in row_parts(matrix.rows)]
    return {
        **dict.fromkeys(("capture", "forward", "statistics"), sequences),
        **dict.fromkeys(("search", "measure"), linears),
        **dict.fromkeys(("apply", "solve"), _largest(parts, ranks) if case.solved else 1.0),
        # Made by every rank that needs it: all of them, where rows are divided.
        "factor": 1.0,
    }


def predicted(
    alone: Mapping[str, float], case: Case, ranks: int, cores: int, blocks: int, bandwidth: float
) -> dict[str, float]:
    """Seconds by phase of a run of so many ranks, from those of one.

    Args:
        alone: seconds by phase of one process.
        cores: of the machine, which every rank takes one of; more ranks than cores wait for one another.
        bandwidth: bytes per second that arrive at all ranks together.
    """
    left, crowded = shares(case, ranks), max(1.0, ranks / cores)
    # The first rank alone writes; each of them loads the model and plans.
    crowding = {"write": 1.0}
    found = {phase: time * left.get(phase, 1.0) * crowding.get(phase, crowded) for phase, time in alone.items()}
    return found | {"moved": blocks * sum(volume(case, ranks).values()) / bandwidth}


def _groups(case: Case, ranks: int) -> list[range]:
    """The groups of sequences of each rank."""
    return divided(len(groups_of(case.sequences)), ranks)


def _largest(costs: Sequence[int], ranks: int) -> float:
    loads = [0] * ranks
    for cost, owner in zip(costs, dealt(costs, ranks), strict=True):
        loads[owner] += cost
    return max(loads) / sum(costs)


def _nodes(groups: range) -> int:
    """How many sums of a binary tree consecutive groups come to."""
    first, last, count = groups.start, groups.stop, 0
    while first < last:
        size = first & -first or 1 << last.bit_length()
        while size > last - first:
            size //= 2
        first, count = first + size, count + 1
    return count
