"""Weights of a fixed mask go, and those that follow make up for them."""

from __future__ import annotations

from torch import Tensor

import trim_kernels
from benchmarks.baselines.sparsegpt_paper import update
from benchmarks.cases.case import Case
from benchmarks.cases.checks import close_updates
from benchmarks.problems import SPARSITY, Elimination


def _update(problem: Elimination, backend: str) -> tuple[Tensor, Tensor]:
    errors = trim_kernels.obs_update_(problem.weight, problem.kept, problem.factor, backend=backend)
    return problem.weight, errors


def _published(problem: Elimination) -> tuple[Tensor, Tensor]:
    return problem.weight, update(problem.weight, problem.factor, SPARSITY, problem.kept)


OBS_UPDATE = Case(
    "obs_update_",
    "",
    Elimination.make,
    _update,
    close_updates,
    bytes_moved=Elimination.least_bytes,
    operations=Elimination.least_operations,
    baseline=_published,
    baseline_name="the published formulation, benchmarks/baselines/sparsegpt_paper.py",
    in_place=True,
    waits=True,
)
