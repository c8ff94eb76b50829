"""llm-compressor with our kernels under its own Wanda and SparseGPT modifiers; one of ours: llmcompressor_modifier."""

from __future__ import annotations

from functools import wraps
from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import TrimPruneError
from .sparsegpt_blocks import as_matrix, as_weight, prune_blocks
from .wanda_scripts import wanda_mask

MODIFIERS = "llmcompressor.modifiers.pruning"


def accelerate_llmcompressor() -> None:
    """Make the modifiers of llm-compressor choose and update weights with our kernels, in this process::

        from trim_prune.integrations.llmcompressor import accelerate_llmcompressor

        accelerate_llmcompressor()
        oneshot(model=model, dataset=dataset, recipe=WandaPruningModifier(sparsity=0.5))

    ``WandaPruningModifier`` then gives the same weights to the bit, but for ties in N:M groups, of which it takes any;
    ``SparseGPTModifier`` the same but for rounding. With ``preserve_sparsity_mask`` SparseGPT stays as it is. Where a
    damped Hessian cannot be factored, theirs goes on as if inputs were independent; here that is an error.

    Calling it again does nothing. Tested with llmcompressor 0.14.

    Raises:
        TrimPruneError: llmcompressor is not installed, or another than is known.
    """
    for kind, function in (("wanda", _wanda), ("sparsegpt", _sparsegpt)):
        try:
            module: Any = import_module(f"{MODIFIERS}.{kind}.base")
            theirs = module.sparsify_weight
        except (ImportError, AttributeError) as error:
            raise TrimPruneError(
                "llmcompressor has not the modifiers that are accelerated",
                got=f"{type(error).__name__}: {error}",
                fix="pip install 'trim-kernels[llmcompressor]'",
            ) from error
        if not hasattr(theirs, "__wrapped__"):
            module.sparsify_weight = wraps(theirs)(function(theirs))


def _wanda(_: Any) -> Any:
    def sparsify_weight(
        module: Any, row_scalars_dict: dict[Any, Tensor], sparsity: float, prune_n: int, prune_m: int
    ) -> Tensor:
        weight = as_matrix(module)
        metric = weight.abs() * row_scalars_dict.pop(module).reshape(1, -1).sqrt()
        return as_weight(weight.masked_fill_(wanda_mask(metric, sparsity, prune_n, prune_m), 0), module)

    return sparsify_weight


def _sparsegpt(theirs: Any) -> Any:
    def sparsify_weight(
        module: Any,
        hessians_dict: dict[Any, Tensor],
        sparsity: float,
        prune_n: int,
        prune_m: int,
        block_size: int,
        dampening_frac: float,
        preserve_sparsity_mask: bool,
    ) -> tuple[float, Tensor]:
        if preserve_sparsity_mask:
            arguments = (module, hessians_dict, sparsity, prune_n, prune_m, block_size, dampening_frac)
            found: tuple[float, Tensor] = theirs(*arguments, preserve_sparsity_mask)
            return found
        weight = as_matrix(module)
        hessian = hessians_dict.pop(module)
        loss = prune_blocks(weight, hessian, sparsity, prune_n, prune_m, block_size, dampening_frac)
        return loss, as_weight(weight, module)

    return sparsify_weight
