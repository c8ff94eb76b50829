"""The one error that a user of trim-prune sees."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NOT_FINITE_FIX = "check the checkpoint; if it is float16, compute in another type: --dtype bfloat16 or float32"


class TrimPruneError(Exception):
    """Bad input or a failed run, told in full: what, where, expected, got, how to fix.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        details = {"where": where, "expected": expected, "got": got, "fix": fix}
        lines = [what, *(f"  {label + ':':<10}{text}" for label, text in details.items() if text is not None)]
        super().__init__("\n".join(lines))

    def at(self, where: str) -> TrimPruneError:
        """The same error, told where; as it is if it says where already."""
        if self.where is not None or where in self.what or where in (self.got or ""):
            return self
        return TrimPruneError(self.what, where=where, expected=self.expected, got=self.got, fix=self.fix)


class WeightsElsewhereError(TrimPruneError):
    """Weights were read that are not in memory."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name: ``did you mean 'wanda'?``, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
