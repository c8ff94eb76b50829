"""How long calibration sequences are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import TrimPruneError
from ..models.device import context_length

if TYPE_CHECKING:
    from ..recipes import AnyRecipe

DEFAULT_SEQLEN = 2048


def sequence_length(recipe: AnyRecipe, model: nn.Module) -> int:
    """Tokens per sequence: as the recipe says, else 2048, or the model's context if that is shorter.

    Raises:
        TrimPruneError: longer than the context, or shorter than what a row search looks at.
    """
    context = context_length(model)
    seqlen = recipe.seqlen or min(DEFAULT_SEQLEN, context or DEFAULT_SEQLEN)
    if context is not None and seqlen > context:
        raise TrimPruneError(
            "calibration sequences are longer than the model's context",
            expected=f"seqlen at most {context}",
            got=str(seqlen),
        )
    searched = getattr(recipe, "tokens_per_sequence", 1)
    if searched > seqlen:
        raise TrimPruneError(
            "more search tokens per sequence than it has",
            expected=f"tokens_per_sequence at most {seqlen}",
            got=str(searched),
        )
    return seqlen
