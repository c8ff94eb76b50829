"""Tokens per second of a model that writes text."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ..models.decode import decoder
from ..models.device import evaluation_mode

TOKENS, SECONDS = 16, 10.0
"""So many tokens are decoded, fewer if that takes longer, but two at least."""


@torch.no_grad()
def tokens_per_second(model: Any, prompt: Tensor, tokens: int = TOKENS, seconds: float = SECONDS) -> float:
    """Greedy decoding after a prompt [1, T], one sequence, with the cache of keys and values.

    One over the time of the fastest token, as other load on the machine only slows; the first after the prompt does not
    count.
    """
    prompt = prompt.to(next(model.parameters()).device)
    decode = decoder(model)
    with evaluation_mode(model):
        logits, cache = decode(prompt)
        last = logits[:, -1:].argmax(dim=-1)
        times: list[float] = []
        start = time.perf_counter()
        while len(times) <= tokens and (len(times) < 3 or time.perf_counter() - start < seconds):
            begin = time.perf_counter()
            logits, cache = decode(last, cache)
            last = logits[:, -1:].argmax(dim=-1)
            int(last)  # a GPU has not decoded it before the host has it
            times.append(time.perf_counter() - begin)
    return 1 / min(times[1:])
