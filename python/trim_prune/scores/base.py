"""What a score is, and the registry of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..calibration.statistics import LinearStatistics, Need
from ..registry import Registry

if TYPE_CHECKING:
    from ..recipe import Recipe


@dataclass(frozen=True)
class ScoreRequest:
    """One linear: its weight [R, C], and what was measured at its input."""

    weight: Tensor
    statistics: LinearStatistics
    recipe: Recipe


@dataclass(frozen=True)
class Importance:
    """The score of every weight of one linear, in one of three forms.

    ``column_scale`` float32 [C]: abs(weight) * column_scale, never stored; ``score`` float32 [R, C];
    neither: abs(weight).
    """

    column_scale: Tensor | None = None
    score: Tensor | None = None


ScoreFunction = Callable[[ScoreRequest], Importance]


@dataclass(frozen=True)
class Score:
    """A registered score: its function and the statistics it needs."""

    function: ScoreFunction
    needs: frozenset[Need]


SCORES: Registry[Score] = Registry("score")


def register_score(name: str, *, needs: Iterable[Need] = ()) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register ``function(request) -> Importance`` under a name.

    It leaves the weight as it is; ``trim_kernels.testing.check_score`` says what else it owes.
    """

    def add(function: ScoreFunction) -> ScoreFunction:
        SCORES.register(name, Score(function, frozenset(needs)))
        return function

    return add
