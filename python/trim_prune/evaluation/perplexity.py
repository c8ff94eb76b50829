"""Perplexity over non-overlapping windows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..calibration.text import Text, TextSource, open_text
from ..errors import NOT_FINITE_FIX, TrimPruneError
from ..models.device import choose_device, context_length, evaluation_mode
from ..models.load import load_model

LOGIT_BYTES = 512 << 20
"""Bound on the logits of one batch, which a vocabulary of 150 000 would otherwise let grow to many GiB."""
ROWS_AT_ONCE = 512
WINDOWS_AT_ONCE = 32


@dataclass(frozen=True)
class Perplexity:
    """A perplexity and the protocol that it belongs to; figures of unlike protocols cannot be compared.

    ``text_sha256``: of the text that was tokenised; ``tokens_sha256``: of the token ids in the windows, as int64.
    """

    perplexity: float
    tokens: int
    windows: int
    seqlen: int
    bos: str
    data: str
    split: str | None
    dtype: str
    text_sha256: str
    tokens_sha256: str

    @property
    def protocol(self) -> dict[str, Any]:
        """Everything but the figure."""
        return {
            "data": self.data,
            "split": self.split,
            "text_sha256": self.text_sha256,
            "tokens": self.tokens,
            "seqlen": self.seqlen,
            "windows": self.windows,
            "bos": self.bos,
            "dtype": self.dtype,
            "tokens_sha256": self.tokens_sha256,
        }


def evaluate(
    model: str | Path,
    text: TextSource,
    *,
    seqlen: int = 2048,
    gguf: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    max_windows: int | None = None,
    trust_remote_code: bool = False,
    text_field: str = "text",
    on_batch: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Load a model and measure its perplexity; see :func:`perplexity`. A dataset means its held-out split."""
    place = choose_device(device)
    source = open_text(text, field=text_field, held_out=True)
    loaded = load_model(model, gguf=gguf, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    loaded.model.to(place)
    return perplexity(loaded.model, loaded.tokenizer, source, seqlen=seqlen, max_windows=max_windows, on_batch=on_batch)


@torch.no_grad()
def perplexity(
    model: nn.Module,
    tokenizer: Any,
    text: Text | TextSource,
    *,
    seqlen: int = 2048,
    max_windows: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Return exp of the mean negative log-likelihood per predicted token.

    The documents are joined by an empty line and tokenised once, with the tokenizer's own special tokens (so BOS
    stands once at the start, if the tokenizer adds it). Windows of ``seqlen`` tokens do not overlap, the last,
    incomplete one is dropped, and each gives seqlen - 1 predictions. ``on_batch(windows done, windows)``.
    """
    if seqlen < 2:
        raise TrimPruneError("a window of fewer than 2 tokens predicts nothing", got=f"seqlen {seqlen}")
    context = context_length(model)
    if context is not None and seqlen > context:
        raise TrimPruneError(
            "the windows are longer than the model's context",
            expected=f"seqlen at most {context}",
            got=str(seqlen),
            fix=f"--seqlen {context}",
        )
    text = text if isinstance(text, Text) else open_text(text, held_out=True)
    joined = "\n\n".join(text.documents)
    ids = tokenizer(joined, verbose=False)["input_ids"]
    count = len(ids) // seqlen if max_windows is None else min(len(ids) // seqlen, max_windows)
    if count == 0:
        raise TrimPruneError(
            "too little text for one window",
            where=text.name,
            expected=f"at least {seqlen} tokens",
            got=f"{len(ids)} tokens",
            fix="give more text, or lower --seqlen",
        )
    windows = torch.tensor(ids[: count * seqlen], dtype=torch.int64).view(count, seqlen)
    batch_size = _batch_size(model, seqlen)
    total = 0.0
    with evaluation_mode(model):
        for start in range(0, count, batch_size):
            total += _negative_log_likelihood(model, windows[start : start + batch_size])
            if on_batch is not None:
                on_batch(min(start + batch_size, count), count)
    if not math.isfinite(total):
        raise TrimPruneError(
            "the model's predictions hold NaN or infinity",
            got=f"a negative log-likelihood of {total}",
            fix=NOT_FINITE_FIX,
        )
    return Perplexity(
        perplexity=math.exp(min(total / (count * (seqlen - 1)), 700.0)),
        tokens=count * seqlen,
        windows=count,
        seqlen=seqlen,
        bos="BOS once at the start" if ids[0] == tokenizer.bos_token_id else "no BOS",
        data=text.name,
        split=text.split,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        text_sha256=hashlib.sha256(joined.encode()).hexdigest(),
        tokens_sha256=hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
    )


def _batch_size(model: nn.Module, seqlen: int) -> int:
    vocabulary = model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    return int(min(WINDOWS_AT_ONCE, max(1, LOGIT_BYTES // (4 * vocabulary * seqlen))))


def _negative_log_likelihood(model: nn.Module, windows: Tensor) -> float:
    windows = windows.to(next(model.parameters()).device)
    logits = model(input_ids=windows, use_cache=False).logits
    total = 0.0
    for row, target in zip(logits, windows[:, 1:], strict=True):
        # Few rows at a time in float32: the whole would double the memory of a half-precision model's logits.
        pairs = zip(row[:-1].split(ROWS_AT_ONCE), target.split(ROWS_AT_ONCE), strict=True)
        total += sum(float(functional.cross_entropy(part.float(), goal, reduction="sum")) for part, goal in pairs)
    return total
