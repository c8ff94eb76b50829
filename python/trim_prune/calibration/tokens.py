"""Text to calibration sequences: tokenise, pack, cut, sample."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TrimPruneError
from .text import Text

OVERSAMPLING = 4
"""How many times the asked tokens are read from an endless text, so that there is something to sample from."""


@dataclass(frozen=True)
class Calibration:
    """Token ids int64 [samples, seqlen], and which windows of which text they are.

    ``held_out``: int64 [sequences, seqlen], other windows of the same text.
    """

    token_ids: Tensor
    sample_ids: list[int]
    text: str
    windows: int
    held_out: Tensor

    def batches(self, batch_size: int) -> list[Tensor]:
        """The sequences in batches; the last one may be smaller."""
        return list(torch.split(self.token_ids, batch_size))


def calibration_tokens(
    tokenizer: Any, text: Text, *, samples: int, seqlen: int, seed: int, held_out: int = 0
) -> Calibration:
    """Sample non-overlapping windows of ``seqlen`` tokens, and ``held_out`` others beside them.

    Documents are tokenised without special tokens and joined with the end-of-text token if the tokenizer has
    one. Window i starts at token i * seqlen; which ones are taken depends on the seed and their number only.
    """
    needed = samples + held_out
    wanted = OVERSAMPLING * needed * seqlen if text.endless else None
    ids = _pack(tokenizer, text, wanted)
    windows = len(ids) // seqlen
    if windows < needed:
        beside = f", {held_out} of them to judge a search by" if held_out else ""
        raise TrimPruneError(
            "too little calibration text",
            where=text.name,
            expected=f"{needed} sequences of {seqlen} tokens{beside}: {needed * seqlen} tokens",
            got=f"{len(ids)} tokens: {windows} sequences",
            fix="give more text, or lower --samples or --seqlen",
        )
    chosen = random.Random(seed).sample(range(windows), samples)
    others = random.Random(seed).sample(sorted(set(range(windows)) - set(chosen)), held_out)
    table = torch.tensor(ids[: windows * seqlen], dtype=torch.int64).view(windows, seqlen)
    return Calibration(table[chosen], chosen, text.name, windows, table[others])


def _pack(tokenizer: Any, text: Text, wanted: int | None) -> list[int]:
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for document in text.documents:
        if ids:
            ids += separator
        ids += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        if wanted is not None and len(ids) >= wanted:
            break
    return ids
