"""How many sequences go through a block at once: as many as memory allows, found before the run."""

from __future__ import annotations

from collections.abc import Callable

from ..activations import SHARE, Where, free_on, where_kept
from ..team.groups import groups_of
from .memory import Place, hidden_states, peak
from .subject import Subject

MOST_TOKENS = 8192
"""In one forward: more are no faster, as products of so many rows keep any device busy."""


def batch_size(subject: Subject, present: int = 0) -> tuple[int, Where]:
    """The sequences in one forward, and where hidden states wait.

    The number that the recipe names; where it says auto, those of ``MOST_TOKENS``, halved until the highest moment of
    the device takes no more than its share of what is free. At most a group of sequences, see ``team``. A batch that
    does not fit all the same is halved during the run. ``present``: bytes of the parts of that moment that lie in
    memory already.
    """
    where = where_kept(hidden_states(subject), subject.device)
    asked, most = subject.recipe.batch_size, max(map(len, groups_of(subject.sequences)), default=1)
    if asked != "auto":
        return min(asked, most), where
    place: Place = "gpu" if subject.device.type == "cuda" else "host"
    room = int(SHARE * free_on(subject.device)) + present

    def needed(sequences: int) -> int:
        return peak(subject, sequences, where, place).total

    return largest(most, subject.tokens, needed, room), where


def largest(sequences: int, tokens: int, needed: Callable[[int], int], room: int) -> int:
    """The sequences of ``MOST_TOKENS``, halved until what they need is no more than the room; at least one."""
    size = max(1, min(sequences, MOST_TOKENS // max(1, tokens)))
    while size > 1 and needed(size) > room:
        size //= 2
    return size
