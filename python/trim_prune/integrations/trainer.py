"""A callback for the Trainer of transformers: training keeps zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from ..formats.masks import Masks
from ..training import KeptZeros, keep_zeros


class KeepZeros(TrainerCallback):
    """Sets pruned weights back to zero after every step of the optimizer, and checks them at the end::

        Trainer(model, ..., callbacks=[KeepZeros()]).train()

    ``masks``: as of :func:`trim_prune.keep_zeros`. What is pruned is known from when training begins; a model that the
    Trainer shards needs masks given.
    """

    def __init__(self, masks: Masks | Mapping[str, Tensor] | None = None) -> None:
        self.masks = masks
        self.zeros: KeptZeros | None = None
        self.sparsity: float | None = None
        """The share that is pruned, as found when training ended."""

    def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
        """Learn what is pruned."""
        self.zeros = keep_zeros(model, self.masks)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Set it to zero."""
        assert self.zeros is not None
        self.zeros.apply()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Check that it is zero."""
        assert self.zeros is not None
        self.sparsity = self.zeros.check()
