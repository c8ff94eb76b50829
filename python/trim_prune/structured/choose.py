"""Which units of a part stay, by the method that the recipe names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrimPruneError
from ..factor import factorise
from .channels import direction_weights, feature_score, keep_channels
from .heads import least_error, most_similar, unit_gram
from .parts import Part
from .recipe import StructuredRecipe
from .repair import Inputs


@dataclass(frozen=True)
class Measured:
    """Moments of what enters the consumer of a part, and ||X|| [H], the norm over tokens of its producers' inputs."""

    inputs: Inputs
    input_norm: Tensor


def choose(
    part: Part, weight: Tensor, measured: Measured | None, count: int, recipe: StructuredRecipe
) -> tuple[Tensor, tuple[str, ...]]:
    """int64, ascending: the units that stay when ``count`` go; and what a failed factorisation had to fall back to.

    ``weight`` [D, C]: the consumer's.
    """
    method = recipe.heads if part.heads else recipe.channels
    if method == "magnitude":
        return _lowest_go(_squares(part, weight).sqrt(), count), ()
    assert measured is not None
    inputs = measured.inputs
    if method == "wanda":
        # Wanda's scores of all weights of a unit in the consumer, summed.
        scores = torch.linalg.vector_norm(weight, dim=0) * _column_norm(inputs)
        return _lowest_go(scores.view(part.units, part.width).sum(dim=1), count), ()
    if method == "obs":
        inverse, steps = _inverse(part, inputs)
        if part.heads:
            return _tensor(least_error(weight, inverse, part.units, count), weight), steps
        return _lowest_go(weight.square().sum(dim=0) / inverse.diagonal(), count), steps
    if method == "pearson":
        gram = unit_gram(weight, inputs.covariance, part.units)
        return _tensor(most_similar(gram, count, swaps=recipe.pearson.swaps), weight), ()
    return _by_feature(part, weight, measured, count, recipe), ()


def _by_feature(part: Part, weight: Tensor, measured: Measured, count: int, recipe: StructuredRecipe) -> Tensor:
    options, inputs = recipe.feature, measured.inputs
    directions = direction_weights(weight @ inputs.covariance @ weight.mT) if options.weighting else None
    producers = [part.linear(producer.name).weight.data.to(weight.dtype) for producer in part.producers]
    norm = measured.input_norm.to(weight.dtype)
    scores = feature_score(weight, producers, norm, _column_norm(inputs), directions, normalise=options.normalise)
    return keep_channels(scores, count, options.keep_lowest)


def _column_norm(inputs: Inputs) -> Tensor:
    """[C]: the norm of every column of what enters the consumer, over all tokens."""
    return (inputs.tokens * (inputs.covariance.diagonal() + inputs.mean.square())).sqrt()


def _squares(part: Part, weight: Tensor) -> Tensor:
    """[U]: the sum of squares of all weights of a unit."""
    total = weight.square().sum(dim=0).view(part.units, part.width).sum(dim=1)
    for producer in part.producers:
        rows = part.linear(producer.name).weight.data.to(weight.dtype).square().sum(dim=1)
        total = total + rows.view(part.units, producer.rows).sum(dim=1)
    return total


def _inverse(part: Part, inputs: Inputs) -> tuple[Tensor, tuple[str, ...]]:
    factor = factorise(inputs.covariance, inputs.tokens, None)
    if factor.upper is None:
        raise TrimPruneError(
            "the covariance of the inputs cannot be inverted",
            where=part.where,
            fix="more calibration text, or another choice of heads and channels",
        )
    upper = factor.upper.to(inputs.covariance.dtype)
    return upper.mT @ upper, factor.steps


def _lowest_go(scores: Tensor, count: int) -> Tensor:
    return torch.sort(scores, stable=True).indices[count:].sort().values


def _tensor(units: list[int], like: Tensor) -> Tensor:
    return torch.tensor(units, device=like.device)
