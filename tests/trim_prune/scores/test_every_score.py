"""What every score owes."""

from __future__ import annotations

from functools import partial

import pytest

from trim_kernels import testing
from trim_prune import Recipe, score_linear
from trim_prune.scores import SCORES


@pytest.mark.parametrize("score", SCORES.names())
def test_it_passes_the_check_for_plug_ins(score):
    testing.check_score(partial(score_linear, Recipe(sparsity=0.5, score=score)))
