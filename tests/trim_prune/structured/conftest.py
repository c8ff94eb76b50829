"""Tiny models, pruned in memory."""

from __future__ import annotations

import pytest
from tiny_models import make_model

from trim_prune import StructuredRecipe, prune

TINY = {"samples": 8, "seqlen": 32, "repair": "affine"}


@pytest.fixture
def prune_tiny(tokenizer, text):
    """Prune a tiny model of a family by a recipe; returns the result, whose model is the pruned one."""

    def run(family, recipe, **options):
        model = make_model(family, **options)
        return prune(model, StructuredRecipe.build(TINY | recipe), [text], tokenizer=tokenizer)

    return run
