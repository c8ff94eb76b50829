"""N:M patterns: of every m consecutive columns of a row, n weights stay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

LARGEST_GROUP = 32
_WORDS = re.compile(r"\s*(?:keep\s+(\d+)\s+)?of\s+(\d+)\s*")
_NUMBERS = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True)
class Pattern:
    """Keep ``keep`` of every ``of`` columns; None: as many as the layer budget says, another number in each linear."""

    keep: int | None
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.of <= LARGEST_GROUP:
            raise ValueError(f"a group of a pattern: expected 1 to {LARGEST_GROUP} columns, got {self.of}")
        if self.keep is not None and not 0 <= self.keep <= self.of:
            raise ValueError(f"a pattern keeps 0 to {self.of} of {self.of}, got {self.keep}")

    def __str__(self) -> str:
        return f"of {self.of}" if self.keep is None else f"keep {self.keep} of {self.of}"

    @property
    def sparsity(self) -> float:
        """The share of the weights that goes; the pattern has to say how many stay."""
        if self.keep is None:
            raise ValueError(f"the pattern {str(self)!r} has no sparsity of its own")
        return 1 - self.keep / self.of

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """From "keep 2 of 4" or "of 8"; of bare numbers only from those that say the same when read either way."""
        if words := _WORDS.fullmatch(text):
            keep, of = words.groups()
            return cls(None if keep is None else int(keep), int(of))
        if numbers := _NUMBERS.fullmatch(text):
            first, of = map(int, numbers.groups())
            pattern = cls(first, of)
            if 2 * first == of:
                return pattern
            raise ValueError(
                f"{text!r} can be read as keeping {first} of {of} and as pruning {first} of {of}, and tools differ: "
                f"write 'keep {first} of {of}' or 'keep {of - first} of {of}'"
            )
        raise ValueError(f"a pattern: expected words such as 'keep 2 of 4', got {text!r}")


class Keep(NamedTuple):
    """What a pattern means in one linear: every ``of`` columns of a row keep ``keep`` weights."""

    keep: int
    of: int

    def of_row(self, columns: int) -> int:
        """How many weights of a row stay; the shorter group at its end keeps ceil(keep * its columns / of)."""
        groups, tail = divmod(columns, self.of)
        return groups * self.keep + -(-self.keep * tail // self.of)

    def __str__(self) -> str:
        return f"keep {self.keep} of {self.of}"
