"""Forwards that go on from an earlier one by its cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Decode = Callable[..., tuple[Tensor, Any]]


def decoder(model: nn.Module) -> Decode:
    """``decode(token_ids, cache=None)``: the logits after tokens [sequences, tokens], and the cache to go on from.

    The cache that is given is that of the tokens before; None: there are none. What is returned is None if the model
    gives no cache.
    """
    # Its name since transformers 5.24, and before.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def decode(token_ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        output = model(input_ids=token_ids, use_cache=True, **({} if cache is None else {name: cache}))
        return output.logits, getattr(output, name, None)

    return decode
