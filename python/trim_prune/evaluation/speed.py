"""How fast a model reads a prompt and writes after it, and what memory it takes meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrimPruneError
from ..memory import BodyPeak
from ..models.decode import Decode, decoder
from ..models.device import context_length, evaluation_mode

PROMPT, NEW, REPEATS = 512, 64, 3


def speed(
    model: nn.Module, *, on_run: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """The protocol, and tokens per second and bytes measured by it.

    One sequence of seeded random tokens: ``prefill`` is the rate of one forward over the prompt, ``decode`` that of
    the tokens after it, each a forward of its own with the cache; medians of some runs after a first one that is not
    counted. ``peak_bytes``: allocated on the GPU, or resident in the whole process; None where it cannot be told.
    ``on_run(runs done, runs)``.
    """
    device = next(model.parameters()).device
    context = context_length(model) or PROMPT + NEW
    new = min(NEW, context // 2)
    prompt = min(PROMPT, context - new)
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = torch.randint(vocabulary, (1, prompt), generator=torch.Generator().manual_seed(0)).to(device)
    decode = decoder(model)
    prefills, decodes = [], []
    with evaluation_mode(model), torch.inference_mode(), BodyPeak(device) as peak:
        for number in range(REPEATS + 1):
            first, rest = _run(decode, ids, new, device)
            if number > 0:
                prefills.append(prompt / first)
                decodes.append(new / rest)
            if on_run is not None:
                on_run(number + 1, REPEATS + 1)
    protocol = {
        "prompt_tokens": prompt,
        "new_tokens": new,
        "sequences": 1,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return protocol, {
        "prefill": median(prefills),
        "decode": median(decodes),
        "parameter_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        "peak_bytes": peak.bytes,
    }


def _run(decode: Decode, ids: Tensor, new: int, device: torch.device) -> tuple[float, float]:
    """Seconds for the prompt, and for what comes after it."""
    start = _now(device)
    logits, cache = decode(ids)
    if cache is None:
        raise TrimPruneError("the model gives no cache of keys and values", fix="leave out --speed for this model")
    middle = _now(device)
    for _ in range(new):
        logits, cache = decode(logits[:, -1:].argmax(dim=-1), cache)
    return middle - start, _now(device) - middle


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
