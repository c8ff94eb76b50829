"""What every solver owes."""

from __future__ import annotations

from functools import partial

import pytest

from trim_kernels import testing
from trim_prune import Recipe, solve_linear
from trim_prune.solvers import SOLVERS


@pytest.mark.parametrize("score", ["wanda", "ria"])
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_it_passes_the_check_for_plug_ins(solver, score):
    testing.check_solver(partial(solve_linear, Recipe(sparsity=0.5, score=score, solver=solver)))
