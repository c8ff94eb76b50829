"""Forwards that go on from an earlier one by its cache of keys and values."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


def decode(model: nn.Module, token_ids: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
    """The logits after tokens [sequences, tokens], and the cache to go on from; None if the model gives none.

    ``cache``: that of the tokens before; None: these are the first.
    """
    # Its name since transformers 5.24, and before.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    output = model(input_ids=token_ids, use_cache=True, **({} if cache is None else {name: cache}))
    return output.logits, getattr(output, name, None)
