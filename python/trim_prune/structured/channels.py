"""How important is a channel of the feed-forward part? SlimLLM's score in the feature space of the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def direction_weights(output_covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Q [D, D], the eigenvectors of the output's covariance, and C [D] = sigmoid(|lambda| / mean |lambda|).

    C lies in (0.5, 1): 0.5 for directions in which the output does not vary.
    """
    values, vectors = torch.linalg.eigh(output_covariance)
    size = values.abs()
    mean = size.mean()
    return vectors, torch.sigmoid(size / mean if mean > 0 else size)


def feature_score(
    output: Tensor,
    producers: Sequence[Tensor],
    input_norm: Tensor,
    channel_norm: Tensor,
    directions: tuple[Tensor, Tensor] | None,
    *,
    normalise: bool,
) -> Tensor:
    """[I]: the score of SlimLLM (arXiv 2505.22689, equations 5 to 8 and its code); the smallest go first.

        I_d[j] = ||(|w_j^T Q|) * C|| * ||A_j||        w_j: column j of ``output`` [D, I]
        I_p[j] = || P[j] * ||X|| ||                   for each of the ``producers`` [I, H], such as gate and up
        score  = I_d + sum_p I_p

    ``channel_norm`` [I]: ||A_j||, and ``input_norm`` [H]: ||X||, norms over all tokens. ``directions``: (Q, C); None:
    C is 1 everywhere, and I_d is Wanda's ||w_j|| ||A_j||, since Q turns and does not stretch. ``normalise``: each of
    the terms is divided by its mean first; as published, the largest decides.
    """
    turned = output if directions is None else directions[1][:, None] * (directions[0].mT @ output)
    terms = [torch.linalg.vector_norm(turned, dim=0) * channel_norm]
    terms += [torch.linalg.vector_norm(weight * input_norm, dim=1) for weight in producers]
    if normalise:
        terms = [term / mean if (mean := term.mean()) > 0 else term for term in terms]
    return torch.stack(terms).sum(dim=0)


def keep_channels(scores: Tensor, count: int, keep_lowest: float) -> Tensor:
    """int64, ascending: the channels that stay when ``count`` go.

    The smallest scores go, after ``round(keep_lowest * I)`` smaller ones that stay (0.01 in the published code, which
    has it from LoRAP). The lower channel goes first where scores tie.
    """
    order = torch.sort(scores, stable=True).indices
    spared = min(round(keep_lowest * len(order)), len(order) - count)
    return torch.cat([order[:spared], order[spared + count :]]).sort().values
